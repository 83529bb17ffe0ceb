/*
 * The dialog before an action: what will be done, to whom, and why.  Nothing is done
 * without its button, and without a reason.
 */
import { el, message } from './dom.js';
import { post } from './api.js';

/* field: { name, label, type, value, hint, options, required, ... }: its element, and how to read it. */
function fieldOf({ name, label, type = 'text', value, hint, options, ...attributes }) {
	const id = `field-${name}`;
	const described = hint ? { 'aria-describedby': `${id}-hint` } : {};
	let input;

	if (type === 'select') {
		input = el('select', { id, name, ...described }, options.map(([key, text]) => el('option', { value: key, selected: key === value }, text)));
	} else if (type === 'textarea') {
		input = el('textarea', { id, name, rows: 3, ...described, ...attributes });
		input.value = value ?? '';
	} else {
		input = el('input', { id, name, type, ...described, ...attributes });
		if (type === 'checkbox') input.checked = value;
		else input.value = value ?? '';
	}

	const text = el('label', { for: id, class: type === 'checkbox' ? 'beside' : undefined }, type === 'checkbox' ? [input, label] : label);

	return {
		name,
		read: () => (type === 'checkbox' ? input.checked : input.value),
		node: el('div', { class: 'field' }, text, type === 'checkbox' ? null : input, hint ? el('p', { class: 'dim', id: `${id}-hint` }, hint) : null),
	};
}

/*
 * title, says (nodes), fields, and actionOf(values): the action, or a text that says what is
 * wrong.  Resolves to what came of it, or null if nothing was done.
 */
export function confirmAction({ title, says, fields = [], button, actionOf }) {
	return new Promise((resolve) => {
		const inputs = [...fields, { name: 'reason', label: 'Reason', type: 'textarea', required: true, minlength: 3, maxlength: 1000, hint: 'It is written down with your name.' }].map(fieldOf);
		const problem = el('div');
		const go = el('button', { class: 'main' }, button);
		const before = document.activeElement;
		let result = null;

		async function submit(event) {
			event.preventDefault();

			const values = Object.fromEntries(inputs.map(({ name, read }) => [name, read()]));
			const action = actionOf(values);

			if (values.reason.trim().length < 3) {
				problem.replaceChildren(message('A reason is needed.'));
				return;
			}
			if (typeof action === 'string') {
				problem.replaceChildren(message(action));
				return;
			}
			go.disabled = true;
			try {
				result = (await post('/api/actions', { ...action, reason: values.reason })).result;
				dialog.close();
			} catch (error) {
				problem.replaceChildren(message(error.message));
				go.disabled = false;
			}
		}

		const dialog = el('dialog', { 'aria-labelledby': 'dialog-title', onclose() {
			dialog.remove();
			before?.focus();
			resolve(result);
		} },
		el('form', { novalidate: true, onsubmit: submit },
			el('h2', { id: 'dialog-title' }, title), el('p', {}, says), inputs.map(({ node }) => node), problem,
			el('div', { class: 'buttons' }, go, el('button', { type: 'button', onclick: () => dialog.close() }, 'Do nothing'))));

		document.body.append(dialog);
		dialog.showModal();
	});
}
