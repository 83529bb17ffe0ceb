/* The actions that an operator has: what each dialog says and asks. */
import { el, nameNode, nameText } from './dom.js';
import { currentSession } from './api.js';
import { confirmAction } from './dialog.js';
import { rule } from './format.js';

const whose = ({ limiter, key }) => ['Limiter ', nameNode(limiter), ', key ', nameNode(key), '. '];
const onKey = (action, { limiter, key }, details) => ({ action, limiter, key, details });

const DURATIONS = [['15 minutes', '15 minutes'], ['1 hour', 'an hour'], ['1 day', 'a day'], ['7 days', 'a week'], ['30 days', '30 days'], ['100 years', 'for ever']];

const ACTIONS = {
	clear_flag: (target) => ({
		title: 'Clear the flag', button: 'Clear the flag',
		says: [whose(target), 'It leaves the review queue. Its violations so far no longer count: only new ones flag it again.'],
		actionOf: () => onKey('clear_flag', target),
	}),
	block: (target) => ({
		title: 'Block', button: 'Block',
		says: [whose(target), 'Each of its calls is denied, whatever it costs, from now on. A block that it has is replaced.'],
		fields: [{ name: 'duration', label: 'For', type: 'select', options: DURATIONS, value: '1 hour' }],
		actionOf: ({ duration }) => onKey('block', target, { duration }),
	}),
	unblock: (target) => ({
		title: 'End the block', button: 'End the block',
		says: [whose(target), 'Its calls are decided by its bucket again.'],
		actionOf: () => onKey('unblock', target),
	}),
	reset: (target) => ({
		title: 'Fill the bucket', button: 'Fill the bucket',
		says: [whose(target), 'It has all its tokens again. A block stays, and so do violations and flags.'],
		actionOf: () => onKey('reset', target, target.period ? { period: target.period } : {}),
	}),
	reward: (target) => ({
		title: 'Give tokens back', button: 'Give back',
		says: [whose(target), 'They are put into its bucket, as far as there is room.'],
		fields: [{ name: 'tokens', label: 'Tokens', type: 'number', value: 1, min: 0, step: 'any' }],
		actionOf: ({ tokens }) => (tokens === '' ? 'How many tokens?' : onKey('reward', target, { tokens: Number(tokens) })),
	}),
	shadow: (tier) => ({
		title: tier.shadow ? 'Deny again' : 'Put in shadow', button: tier.shadow ? 'Turn shadow off' : 'Turn shadow on',
		says: ['Tier ', nameNode(tier.limiter), '. ', tier.shadow ? 'It denies calls again, from the next one on.' :
			'It goes on to decide and to record, but it denies nothing, from the next call on.'],
		actionOf: () => ({ action: 'shadow', limiter: tier.limiter, details: { policy: tier.policy, tier: tier.tier, shadow: !tier.shadow } }),
	}),
	edit_policy: (tier) => ({
		title: 'Edit the policy', button: 'Change it',
		says: ['Tier ', nameNode(tier.limiter), `, now ${rule(tier)}. The next call of every session obeys the change. Buckets keep what is in them.`],
		fields: [
			{ name: 'capacity', label: 'Capacity, tokens', type: 'number', value: tier.capacity, min: 0, step: 'any' },
			{ name: 'refill', label: 'Refill, tokens a second', type: 'number', value: tier.refill, min: 0, step: 'any', hint: 'Either a refill or a period.' },
			{ name: 'period', label: 'Period', value: tier.period, hint: 'Such as day Europe/Berlin: capacity is the allowance of each.' },
			{ name: 'initial', label: 'Tokens to begin with', type: 'number', value: tier.initial, min: 0, step: 'any', hint: 'Nothing: a bucket begins full.' },
			{ name: 'quota', label: 'A quota: refill is 0, and nothing ever comes back', type: 'checkbox', value: tier.quota },
			{ name: 'enabled', label: 'Enabled', type: 'checkbox', value: tier.enabled },
			{ name: 'comment', label: 'Comment', value: tier.comment },
		],
		actionOf(values) {
			const set = {};

			for (const name of ['capacity', 'refill', 'initial', 'period', 'quota', 'enabled', 'comment']) {
				const value = values[name] === '' ? null : ['capacity', 'refill', 'initial'].includes(name) ? Number(values[name]) : values[name];

				if (value !== tier[name]) set[name] = value;
			}
			return Object.keys(set).length === 0 ? 'Nothing is changed.' :
				{ action: 'edit_policy', limiter: tier.limiter, details: { policy: tier.policy, tier: tier.tier, set } };
		},
	}),
};

let afterwards = () => {};

/* What to do when something was done: f(result). */
export const onceDone = (f) => {
	afterwards = f;
};

async function act(name, target) {
	const result = await confirmAction(ACTIONS[name](target));

	if (result !== null) afterwards(result);
}

/* A button for each action, or nothing for those who only look. */
export function actionButtons(target, names) {
	if (!currentSession()?.mayAct) return null;
	return el('div', { class: 'actions' }, names.map((name) => {
		const { title } = ACTIONS[name](target);
		const about = nameText(target.key ?? target.limiter);

		return el('button', { type: 'button', 'aria-label': `${title}: ${about}${target.key === undefined ? '' : `, limiter ${nameText(target.limiter)}`}`,
			'data-focus': `${name} ${target.limiter} ${target.key ?? ''} ${target.period ?? ''}`, 'data-action': name, onclick: () => act(name, target) }, title);
	}));
}
