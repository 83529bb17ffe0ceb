/* Times are seconds and sizes are tokens, unless a name says otherwise. */

import type { IncomingMessage, ServerResponse } from 'node:http';

/** A Pool of node-postgres. */
export interface PgPool {
	connect(): Promise<unknown>;
	query(...args: any[]): any;
	readonly totalCount: number;
}

/** A Client of node-postgres. */
export interface PgClient {
	connect(): Promise<unknown>;
	query(...args: any[]): any;
}

/** An instance of postgres.js. */
export interface PostgresJs {
	unsafe(text: string, ...args: any[]): any;
}

export interface Rule {
	/** The most tokens that a bucket holds. */
	capacity: number;
	/** Tokens per second that a bucket gains until it is full: see per(). */
	refill: number;
	/** A name for the rule, 'default' if it is not given. */
	limiter?: string;
}

export interface PeriodRule {
	/** Tokens in each period. */
	allowance: number;
	/** As PostgreSQL's rl_consume_period() reads it: 'month', 'day Europe/Berlin', '15 minutes'. */
	period: string;
	limiter?: string;
}

export interface SlotsRule {
	/** How many there are at a time, of each key. */
	slots: number;
	limiter?: string;
}

export interface PolicyRule {
	/** The name of a policy in rate_limit_policies. */
	policy: string;
}

export interface PoliciesRule {
	/** Each call names the policies that it is for: see PolicyCall. */
	policies: true;
}

/** An entry of a call that names its policies. */
export interface PolicyCall {
	/** The name of a policy in rate_limit_policies. */
	policy: string;
	key: string;
	/** Tokens that the call takes from it; default: the call's. */
	cost?: number;
}

export interface LeaseOptions {
	/** How long a portion lasts; default 0.1. */
	seconds?: number;
	/** After how long without a call the rest of a portion goes back; default 1. */
	idle?: number;
}

export type MetricsEvent =
	/** A query has ended. */
	| { event: 'query'; kind: string; calls: number; milliseconds: number; error?: Error }
	/** A call has been decided. */
	| { event: 'decision'; allowed: boolean; key: string | PolicyCall[]; by: DecidedBy }
	| { event: 'away'; error: Error }
	| { event: 'back'; milliseconds: number }
	/** The rest of portions has gone back, or could not. */
	| { event: 'returned'; keys: number; tokens: number }
	| { event: 'lost'; keys: number; tokens: number; error: Error };

export interface Options {
	/** Tokens that a call takes, if it does not say; default 1. */
	cost?: number;
	/** The schema of the extension, if search_path does not find it. */
	schema?: string;
	/** Milliseconds after which a call without an answer is decided by "away"; default 1000. */
	timeout?: number;
	/**
	 * Who decides while the database does not: an error (the default), 'allow', 'deny', a
	 * bucket of this process with the same rule ('local'), or one with another rule.
	 */
	away?: 'throw' | 'allow' | 'deny' | 'local' | { capacity: number; refill: number };
	/** Take tokens in portions, and decide by them; default false. Not with a policy. */
	lease?: boolean | LeaseOptions;
	/** Is told of queries, decisions, and when the database is away and back. */
	metrics?: (event: MetricsEvent) => void;
	/** true, the default: prepared statements, until one is not found any more. false: none. */
	prepare?: boolean;
}

export interface CallOptions {
	/** Tokens that the call takes. */
	cost?: number;
	/** Aborts the call: it is not sent, or, if it is under way, its answer is not waited for. */
	signal?: AbortSignal;
}

export type DecidedBy = 'database' | 'lease' | 'local' | 'allow' | 'deny';

/** A decision. What is not known is null, and so is a time that never comes. */
export interface Result {
	allowed: boolean;
	capacity: number | null;
	/** Tokens that the call has left. */
	remaining: number | null;
	/**
	 * Until such a call would be allowed; 0: it was; null: waiting does not help, or it is not known.
	 * setTimeout() may be early: wait Math.ceil(retryAfter * 1000) + 1 milliseconds.
	 */
	retryAfter: number | null;
	/** Until the bucket is full. */
	resetAfter: number | null;
	limiter: string | null;
	/** Allowed only because the limit is in shadow. */
	shadowed: boolean;
	by: DecidedBy;
	/** If the call has named its policies, and the database has decided: the result of each. */
	results?: Result[];
}

export interface Stats {
	allowed: number;
	denied: number;
	/** Calls that ended with an error. */
	failed: number;
	queries: number;
	/** Queries that ended with an error. */
	errors: number;
	/** Whether the database is away. */
	away: boolean;
}

export class RateLimiter {
	constructor(db: PgPool | PgClient | PostgresJs, options: (Rule | PeriodRule | SlotsRule | PolicyRule | PoliciesRule) & Options);
	readonly rule: Readonly<{ capacity?: number; refill?: number; allowance?: number; period?: string; slots?: number; policy?: string; policies?: true; limiter: string }>;
	readonly stats: Stats;
	/** Take tokens. Resolves to true: go on, or false: too many. The second argument may be the cost. */
	consume(key: string | PolicyCall[], options?: number | CallOptions): Promise<boolean>;
	/** The same decision, with what an HTTP answer needs. */
	throttle(key: string | PolicyCall[], options?: number | CallOptions): Promise<Result>;
	/**
	 * Take tokens before it is known how many will be used: of a rule with capacity and refill, or of a policy.
	 * Resolves to null if they are not there.
	 */
	reserve(key: string, tokens: number, options?: { /** Seconds after which all are used; default 60. */ expires?: number; signal?: AbortSignal }): Promise<Reservation | null>;
	/** Hold slots, of a rule with slots. Resolves to null if there are not so many. */
	acquire(key: string, options?: { /** Slots; default 1. */ weight?: number; /** Seconds after which they are free; default 30. */ hold?: number; signal?: AbortSignal }): Promise<Slots | null>;
	/** Wait for what is under way, and give back the rest of portions. The pool stays open. */
	close(): Promise<void>;
}

export interface Reservation {
	/** 0n: nothing is reserved, and the call is allowed all the same. */
	readonly id: bigint;
	/** Say how many tokens were used. Resolves to those left in the bucket, or null if the reservation is not outstanding. */
	settle(used: number): Promise<number | null>;
}

export interface Slots {
	/** 0n: nothing is held, and the call is allowed all the same. */
	readonly id: bigint;
	/** Free the slots. Resolves to false if they were not held any more. */
	release(): Promise<boolean>;
	/** Hold the slots for so many seconds from now; default 30. */
	renew(hold?: number): Promise<boolean>;
}

/** What consume() and throttle() reject with while the database is away, if "away" is 'throw'. */
export class RateLimitUnavailableError extends Error {
	constructor(cause: Error);
	readonly code: 'RATELIMIT_UNAVAILABLE';
	readonly cause: Error;
}

/** The refill for so many tokens per span of time, in tokens per second. */
export function per(tokens: number, span: 'second' | 'minute' | 'hour' | 'day' | number): number;

export interface ClientKeyOptions {
	/** How many proxies in front are trusted to add to X-Forwarded-For; default 0. */
	hops?: number;
	/** How many bits of an IPv6 address count; default 64. */
	ipv6Prefix?: number;
}

/** The address of the client of a request, as a key. */
export function clientKey(request: { headers: Record<string, any>; socket?: { remoteAddress?: string } }, options?: ClientKeyOptions): string;

export interface FieldsOptions {
	/** The name that the fields give the limit; default: its limiter. */
	name?: string;
	/** What a token stands for, such as 'content-bytes'. */
	unit?: string;
	/** The rule's refill, if it is known. */
	refill?: number;
}

/** A decision as header fields: RateLimit, RateLimit-Policy and Retry-After. */
export function rateLimitFields(result: Omit<Result, 'by' | 'shadowed'>, options?: FieldsOptions): Record<string, string>;

type Maybe<T> = T | Promise<T>;

export interface LimitOptions<Framework = unknown> extends ClientKeyOptions {
	/** Whom the request is from; default: clientKey(). The second argument is Koa's context or Fastify's request. */
	key?: (request: IncomingMessage & Record<string, any>, framework: Framework) => Maybe<string>;
	/** Tokens that the request takes; default: the limiter's cost. */
	cost?: number | ((request: IncomingMessage & Record<string, any>, framework: Framework) => Maybe<number | undefined>);
	/** Whether the limit does not concern the request. */
	skip?: (request: IncomingMessage & Record<string, any>, framework: Framework) => Maybe<boolean>;
	/** The name that the header fields give the limit; default: its limiter. */
	name?: string;
	/** What a token stands for; default: a request. */
	unit?: string;
	/** false: no RateLimit fields. Retry-After stays. Default true. */
	fields?: boolean;
	/** The body of the answer of status 429. */
	body?: string;
}

export interface HttpLimitOptions extends LimitOptions {
	/** Answers a denied request. Status and fields are set. */
	denied?: (request: any, response: any, result: Result) => unknown;
}

/** node:http: resolves to true if the request may go on, and to false if it has been answered. */
export function httpLimit(limiter: RateLimiter, options?: HttpLimitOptions): (request: IncomingMessage, response: ServerResponse) => Promise<boolean>;

/** Express. */
export function expressLimit(limiter: RateLimiter, options?: HttpLimitOptions): (request: any, response: any, next: (error?: any) => void) => void;

export interface KoaLimitOptions extends LimitOptions<any> {
	denied?: (context: any, result: Result) => unknown;
}

/** Koa. */
export function koaLimit(limiter: RateLimiter, options?: KoaLimitOptions): (context: any, next: () => Promise<any>) => Promise<void>;

export interface FastifyLimitOptions extends LimitOptions<any> {
	limiter: RateLimiter;
	/** When requests are limited; default 'onRequest', before the body is read. */
	hook?: 'onRequest' | 'preParsing' | 'preValidation' | 'preHandler';
	denied?: (request: any, reply: any, result: Result) => unknown;
}

/** Fastify: fastify.register(fastifyLimit, { limiter }). */
export function fastifyLimit(fastify: any, options: FastifyLimitOptions): Promise<void>;
