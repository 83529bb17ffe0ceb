/*
 * What descriptors of Envoy's rate limit service ask for.
 *
 * Each domain has a tree.  The entries of a descriptor lead down: an entry goes to the node
 * with its key and value, else to the one with its key and the longest prefix "abc*" of its
 * value, else to the one with its key and no value.  The policy of the last entry's node
 * decides; a descriptor that leaves the tree, or ends at a node without a policy, is not
 * limited.
 *
 * The key are the values that the tree does not fix, or, if it fixes all of them, the last one.
 */
'use strict';

const { addressKey, keyOf } = require('./keys');

class Level {
	exact = new Map();		// by key and value
	prefixes = new Map();	// by key: [prefix, node], the longest first
	any = new Map();		// by key

	constructor(descriptors) {
		for (const descriptor of descriptors) {
			const { key, value } = descriptor;
			const node = { ...descriptor, below: new Level(descriptor.descriptors), fixed: false };

			if (value === undefined) {
				this.any.set(key, node);
			} else if (value.endsWith('*')) {
				const prefixes = this.prefixes.get(key) ?? [];

				prefixes.push([value.slice(0, -1), node]);
				prefixes.sort(([a], [b]) => b.length - a.length);
				this.prefixes.set(key, prefixes);
			} else {
				node.fixed = true;
				this.exact.set(JSON.stringify([key, value]), node);
			}
		}
	}

	find({ key, value }) {
		return this.exact.get(JSON.stringify([key, value])) ??
			this.prefixes.get(key)?.find(([prefix]) => value.startsWith(prefix))?.[1] ?? this.any.get(key);
	}
}

/* A function of a domain, a descriptor's entries and a cost that gives a call, or undefined. */
function descriptorRules({ ipv6Prefix, domains }) {
	const trees = new Map(Object.entries(domains).map(([domain, descriptors]) => [domain, new Level(descriptors)]));

	return (domain, entries, cost) => {
		const variable = [];
		let level = trees.get(domain);
		let node;

		for (const entry of entries) {
			node = level?.find(entry);
			if (!node) return undefined;
			if (!node.fixed) variable.push(entry.key === 'remote_address' ? addressKey(entry.value, ipv6Prefix) : entry.value);
			level = node.below;
		}
		if (node?.policy === undefined) return undefined;

		const { policy, lease, away } = node;
		const values = variable.length > 0 ? variable : [entries.at(-1).value];

		// what is empty is not an address or a user, and has a bucket of its own
		return { policy, key: keyOf(values.map((value) => value || '(empty)')), cost, lease, away };
	};
}

module.exports = { descriptorRules };
