import type { PgPool, PgClient, PostgresJs } from '../index.js';
import type { StoreOptions } from './express-rate-limit.js';

/** The class of stores for the option "store" of @fastify/rate-limit. */
export function rateLimitStore(db: PgPool | PgClient | PostgresJs, options?: StoreOptions): new (options: any) => {
	incr(key: string, callback: (error: Error | null, result?: { current: number; ttl: number }) => void, timeWindow?: number, max?: number): void;
	read(key: string, callback: (error: Error | null, result?: { current: number; ttl: number }) => void, timeWindow?: number, max?: number): void;
	child(routeOptions: any): any;
};
