import type { PgPool, PgClient, PostgresJs } from '../index.js';

export interface StoreOptions {
	/** Under which hits are counted; one for each store with other windows or other keys. */
	limiter?: string;
	prefix?: string;
	schema?: string;
	/** Milliseconds; default 1000. */
	timeout?: number;
	prepare?: boolean;
}

/** A store of express-rate-limit. */
export class RateLimitStore {
	constructor(db: PgPool | PgClient | PostgresJs, options?: StoreOptions);
	prefix: string;
	localKeys: boolean;
	init(options: { windowMs: number }): void;
	increment(key: string): Promise<{ totalHits: number; resetTime: Date }>;
	get(key: string): Promise<{ totalHits: number; resetTime: Date } | undefined>;
	decrement(key: string): Promise<void>;
	resetKey(key: string): Promise<void>;
	shutdown(): Promise<void>;
}
