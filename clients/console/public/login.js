/* The form to log in with: a role of PostgreSQL and its password. */
import { post } from './api.js';
import { el, message } from './dom.js';

export function loginForm(text, done) {
	const problem = el('div', {}, text ? message(text) : null);
	const role = el('input', { id: 'field-role', name: 'username', autocomplete: 'username', autocapitalize: 'off', spellcheck: 'false', required: true });
	const password = el('input', { id: 'field-password', name: 'password', type: 'password', autocomplete: 'current-password', required: true });
	const button = el('button', { class: 'main' }, 'Log in');

	async function submit(event) {
		event.preventDefault();
		button.disabled = true;
		try {
			done(await post('/api/login', { role: role.value, password: password.value }));
		} catch (error) {
			problem.replaceChildren(message(error.message));
			button.disabled = false;
			password.value = '';
			password.focus();
		}
	}

	return el('form', { class: 'login', onsubmit: submit },
		el('h1', { id: 'title', tabindex: '-1' }, 'ratelimit'),
		el('p', {}, 'Log in with your role in PostgreSQL and its password.'),
		el('div', { class: 'field' }, el('label', { for: 'field-role' }, 'Role'), role),
		el('div', { class: 'field' }, el('label', { for: 'field-password' }, 'Password'), password),
		problem, el('div', { class: 'buttons' }, button));
}
