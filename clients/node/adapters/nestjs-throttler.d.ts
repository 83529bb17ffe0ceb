import type { PgPool, PgClient, PostgresJs } from '../index.js';
import type { StoreOptions } from './express-rate-limit.js';

/** A storage of @nestjs/throttler. */
export class ThrottlerStorage {
	constructor(db: PgPool | PgClient | PostgresJs, options?: Omit<StoreOptions, 'prefix'>);
	increment(key: string, ttl: number, limit: number, blockDuration: number, throttlerName: string): Promise<{
		totalHits: number;
		timeToExpire: number;
		isBlocked: boolean;
		timeToBlockExpire: number;
	}>;
	onApplicationShutdown(): Promise<void>;
}
