// A Grafana dashboard for the metrics of docs/metrics.md.
//
//   jsonnet dashboard.jsonnet > dashboard.json
//
// then import dashboard.json in Grafana.  The JSON is not in the repository, because nobody can
// review it, and Debian's package jsonnet makes it.  A test asks a real Prometheus each query.

local of = 'instance=~"$instance", database=~"$database"';
local counted = of + ', limiter=~"$limiter"';

local query(expr, legend) = { expr: expr, legendFormat: legend };

// unit: of Grafana's, for instance short, s, ops (operations a second), percentunit
local panel(title, description, unit, queries, type='timeseries') = {
  title: title,
  description: description,
  type: type,
  datasource: { type: 'prometheus', uid: '${datasource}' },
  fieldConfig: {
    defaults: {
      unit: unit,
      min: 0,
      [if type == 'timeseries' then 'custom']: { fillOpacity: 10, showPoints: 'never' },
    },
    overrides: [],
  },
  options: if type == 'timeseries'
  then { legend: { displayMode: 'list', placement: 'bottom' }, tooltip: { mode: 'multi', sort: 'desc' } }
  else { reduceOptions: { calcs: ['lastNotNull'] }, colorMode: 'value' },
  targets: [
    queries[i] { datasource: { type: 'prometheus', uid: '${datasource}' }, refId: std.char(65 + i) }
    for i in std.range(0, std.length(queries) - 1)
  ],
};

local stat(title, description, unit, expr) = panel(title, description, unit, [query(expr, '')], 'stat');

local rate(metric, labels, by) = 'sum by (%s) (rate(%s{%s}[$__rate_interval]))' % [by, metric, labels];

local rows = [
  {
    title: 'Now',
    panels: [
      stat('Decisions a second', 'Calls of all limiters.', 'ops', 'sum(rate(ratelimit_decisions_total{%s}[$__rate_interval]))' % counted),
      stat('Denied', 'Share of the calls that are denied.', 'percentunit', 'sum(rate(ratelimit_decisions_total{%s, result="denied"}[$__rate_interval])) / (sum(rate(ratelimit_decisions_total{%s}[$__rate_interval])) > 0)' % [counted, counted]),
      stat('Keys throttled', 'Keys with recent violations: rate_limit_episodes.', 'short', 'sum(ratelimit_episodes{%s})' % of),
      stat('Review queue', 'Keys that are flagged: rate_limit_flagged.', 'short', 'sum(ratelimit_flags{%s})' % of),
    ],
  },
  {
    title: 'Decisions',
    panels: [
      panel('Decisions by result', 'shadowed: allowed only because of shadow.', 'ops', [query(rate('ratelimit_decisions_total', counted, 'result'), '{{result}}')]),
      panel('Denied by limiter', 'Who they are: rate_limit_top_offenders.', 'ops', [query('topk(10, %s)' % rate('ratelimit_decisions_total', counted + ', result="denied"', 'limiter'), '{{limiter}}')]),
      panel('Share denied by limiter', 'Of the calls of the limiter.', 'percentunit', [query('topk(10, %s / (%s > 0))' % [rate('ratelimit_decisions_total', counted + ', result="denied"', 'limiter'), rate('ratelimit_decisions_total', counted, 'limiter')], '{{limiter}}')]),
      panel('Allowed by limiter', 'The ten with the most calls.', 'ops', [query('topk(10, %s)' % rate('ratelimit_decisions_total', counted + ', result="allowed"', 'limiter'), '{{limiter}}')]),
    ],
  },
  {
    title: 'Stores',
    panels: [
      panel('Living buckets by limiter', 'In both stores. Buckets that are full take no room.', 'short', [query('topk(10, sum by (limiter) (ratelimit_buckets_living{%s}))' % counted, '{{limiter}}')]),
      panel('Memory in use', 'Living buckets in memory, of the slots that there are.', 'percentunit', [query('sum by (instance) (ratelimit_buckets_living{instance=~"$instance", store="memory"}) / max by (instance) (ratelimit_memory_slots{instance=~"$instance"})', '{{instance}}')]),
      panel('Decided in the table', 'Calls for which memory had no room.', 'ops', [query(rate('ratelimit_table_decisions_total', counted, 'limiter'), '{{limiter}}')]),
      panel('Spilled partitions, buckets in the table', 'More than 0: memory is too small.', 'short', [
        query('sum by (database) (ratelimit_memory_partitions_spilled{%s})' % of, '{{database}}: partitions'),
        query('sum by (database) (ratelimit_buckets_living{%s, store="table"})' % of, '{{database}}: buckets'),
      ]),
      panel('Buckets that gave way', 'Their keys get more than their limit.', 'ops', [query('max by (instance) (rate(ratelimit_buckets_evicted_total{%s}[$__rate_interval]))' % of, '{{instance}}')]),
      panel('Slots held and waited for', 'Of rl_acquire().', 'short', [
        query('sum by (database) (ratelimit_tickets_held{%s})' % of, '{{database}}: held'),
        query('sum by (database) (ratelimit_tickets_waiting{%s})' % of, '{{database}}: waiting'),
      ]),
    ],
  },
  {
    title: 'Violations and workers',
    panels: [
      panel('Violations pending', '(other): keys for which ratelimit.max_violations left no room.', 'short', [
        query('sum by (database) (ratelimit_violations_pending{%s})' % of, '{{database}}'),
        query('sum by (database) (ratelimit_violations_pending_other{%s})' % of, '{{database}}: (other)'),
      ]),
      panel('Violations written', 'By the worker, each ratelimit.flush_interval.', 'ops', [query(rate('ratelimit_violations_flushed_total', of, 'database'), '{{database}}')]),
      panel('Since the last flush', 'It grows while there is nothing to write, as well.', 's', [query('time() - max by (database) (ratelimit_last_flush_timestamp_seconds{%s})' % of, '{{database}}')]),
      panel('Flushes that failed, violations lost', 'last_error of rate_limit_stats says why.', 'short', [
        query('sum by (database) (increase(ratelimit_flush_failures_total{%s}[$__rate_interval]))' % of, '{{database}}: failed'),
        query('max by (instance) (increase(ratelimit_violations_lost_total{%s}[$__rate_interval]))' % of, '{{instance}}: lost'),
      ]),
      panel('Launcher, limiting on, shadow, standby', '1: yes.', 'short', [
        query('max by (instance) (ratelimit_launcher_running{%s})' % of, '{{instance}}: launcher runs'),
        query('min by (instance) (ratelimit_enabled{%s})' % of, '{{instance}}: on'),
        query('max by (instance) (ratelimit_shadow{%s})' % of, '{{instance}}: shadow'),
        query('max by (instance) (ratelimit_in_recovery{%s})' % of, '{{instance}}: standby'),
      ]),
      panel('Time since the server started', '', 's', [query('time() - max by (instance) (ratelimit_server_start_timestamp_seconds{%s})' % of, '{{instance}}')]),
    ],
  },
];

// The panels of a row, two beside each other, or four if they show one number each.
local laid_out(row, y) =
  local small = row.panels[0].type == 'stat';
  local width = if small then 6 else 12;
  local height = if small then 4 else 8;
  local beside = 24 / width;
  [{ type: 'row', title: row.title, collapsed: false, panels: [], gridPos: { x: 0, y: y, w: 24, h: 1 } }] +
  [
    row.panels[i] { gridPos: { x: i % beside * width, y: y + 1 + std.floor(i / beside) * height, w: width, h: height } }
    for i in std.range(0, std.length(row.panels) - 1)
  ];

local variable(name, label, from) = {
  name: name,
  label: label,
  type: 'query',
  datasource: { type: 'prometheus', uid: '${datasource}' },
  query: { query: 'label_values(%s, %s)' % [from, name], refId: name },
  refresh: 2,
  includeAll: true,
  multi: true,
  allValue: '.*',
  current: { text: 'All', value: '$__all' },
};

{
  title: 'ratelimit',
  uid: 'ratelimit',
  tags: ['postgresql', 'ratelimit'],
  schemaVersion: 38,
  timezone: 'browser',
  time: { from: 'now-3h', to: 'now' },
  refresh: '30s',
  templating: {
    list: [
      { name: 'datasource', label: 'Prometheus', type: 'datasource', query: 'prometheus' },
      variable('instance', 'Instance', 'ratelimit_memory_slots'),
      variable('database', 'Database', 'ratelimit_memory_slots{instance=~"$instance"}'),
      variable('limiter', 'Limiter', 'ratelimit_decisions_total{instance=~"$instance", database=~"$database"}'),
    ],
  },
  panels: std.mapWithIndex(
    function(i, panel) panel { id: i + 1 },
    std.flattenArrays([laid_out(rows[i], i * 100) for i in std.range(0, std.length(rows) - 1)])
  ),
}
