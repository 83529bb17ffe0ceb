/* What the server is asked, and the session that it knows us by. */

export class Problem extends Error {
	constructor(status, code, message) {
		super(message);
		this.status = status;
		this.code = code;
	}
}

const PATIENCE = 30000;		// ms; the server gives up earlier

/* The session's token is where pages of other ports cannot read it, and those of other tabs can. */
const TOKEN = 'token';

let session = null;

export const currentSession = () => session;
export const setSession = (value) => {
	session = value;
	if (session?.token !== undefined) localStorage.setItem(TOKEN, session.token);
};

const withToken = (headers) => {
	const token = localStorage.getItem(TOKEN);

	return token === null ? headers : { ...headers, 'X-CSRF-Token': token };
};

async function call(path, options) {
	let response;
	let answer;

	try {
		response = await fetch(path, { ...options, signal: AbortSignal.timeout(options.patience ?? PATIENCE), credentials: 'same-origin', redirect: 'error' });
		answer = await response.json();
	} catch (error) {
		throw new Problem(0, 'console', error.name === 'TimeoutError' ? 'The console did not answer in time.' : 'The console itself cannot be reached.');
	}
	if (!response.ok) throw new Problem(response.status, answer.error, answer.message);
	return answer;
}

/* automatic: nobody has asked for it, so that it does not keep the session alive. */
export const get = (path, { automatic = false } = {}) => call(path, { headers: withToken(automatic ? { 'X-Automatic': '1' } : {}) });

export const post = (path, body, { patience } = {}) => call(path, {
	method: 'POST', patience, body: JSON.stringify(body),
	headers: withToken({ 'Content-Type': 'application/json' }),
});
