/** The class of a limiter of rate-limiter-flexible, made with the application's copy of that package. */
export function rateLimiterRatelimit(flexible: any): new (options: {
	storeClient: any;
	points: number;
	duration: number;
	limiter?: string;
	schema?: string;
	timeout?: number;
	prepare?: boolean;
	[option: string]: any;
}) => any;
