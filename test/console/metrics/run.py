"""The metrics of clients/metrics: called by test/console/metrics/run, which has started a server.

run.py short|full FOLDER PORT-OF-SERVER PORT-OF-POSTGRES-EXPORTER PORT-OF-SQL-EXPORTER PORT-OF-PROMETHEUS

Prints a line for each check, and "N passed, M failed".
"""
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

form, work, server_port, postgres_port, sql_port, prometheus_port = sys.argv[1:]
here = "test/console/metrics"
metrics = "clients/metrics"

# A limiter and keys of a caller who means harm
EVIL = 'evil"} 1\n\\n # HELP {x="y"} \u202e\U0001f608'
SECRET = "secret-key"

passed = failed = 0
children = []


def check(good, what, found=""):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
    print(("ok - " if good else "not ok - ") + what, flush=True)
    if not good and found:
        print("#   " + str(found)[:3000].replace("\n", "\n#   "), flush=True)
    return good


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def sql(statements, database="app", **variables):
    options = [f"--set={name}={value}" for name, value in variables.items()]
    done = subprocess.run(
        ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", *options, "-d", database],
        input=statements, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, **options)


def fetch(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


def start(name, *command, **environment):
    with open(f"{work}/{name}.log", "w", encoding="utf-8") as log:
        children.append(subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, **environment}))


def wait_for(what, condition, seconds=60):
    """Repeat until it is true; what it then is."""
    end = time.monotonic() + seconds
    while True:
        try:
            found = condition()
        except (urllib.error.URLError, ConnectionError, KeyError):
            found = None
        if found:
            return found
        if time.monotonic() > end:
            for name in ("postgres", "sql", "prometheus"):
                if os.path.exists(f"{work}/{name}.log"):
                    print(f"# {name}: " + read(f"{work}/{name}.log")[-1500:])
            raise RuntimeError(f"not seen within {seconds} s: {what}")
        time.sleep(0.1)


SAMPLE = re.compile(r'^(\w+)(?:\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse(text):
    """The samples of the text that an exporter writes: {(name, labels): value}."""
    found = {}
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            continue
        name, labels, value = SAMPLE.match(line).groups()
        labels = frozenset(
            (label, re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), value))
            for label, value in LABEL.findall(labels or ""))
        found[name, labels] = float(value)
    return found


def only(samples, *labels):
    """What of an exporter's samples is the extension's, with these labels dropped."""
    return {(name, frozenset(l for l in all_labels if l[0] not in labels)): value
            for (name, all_labels), value in samples.items() if name.startswith("ratelimit")}


def relabeled(samples):
    """The samples of prometheus-sql-exporter, as prometheus.yml relabels them."""
    found = {}
    for (name, labels), value in samples.items():
        match = re.fullmatch("sql_(ratelimit[a-z_]*)", name)
        if match:
            name = f"{match[1]}_{dict(labels)['col']}"
        found[name, labels] = value
    return only(found, "driver", "host", "user", "col", "sql_job")


def of_extension(text, prefix):
    """The lines about the extension's metrics."""
    return "".join(line + "\n" for line in text.split("\n")
                   if re.match(rf"(# (HELP|TYPE) )?{prefix}", line))


def same(a, b):
    return a == b or (a != a and b != b)


def column(document, heading):
    """The first column of the table after a heading, without backquotes."""
    section = document.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\| `(\w+)`", section, re.M)


def anchors(document):
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)$", read(document), re.M)}


def check_traffic():
    """Make the extension and the role as the document says, and something to report."""
    sql("CREATE DATABASE app", "postgres")
    document = read("docs/metrics.md")
    setup = document.split("\n## The role\n", 1)[1].split("```sql\n", 1)[1].split("```", 1)[0]
    sql("CREATE SCHEMA ratelimit; CREATE EXTENSION ratelimit SCHEMA ratelimit;")
    sql(setup)
    sql("ALTER DATABASE app SET search_path = public, ratelimit")
    sql("""
        SELECT count(rl_consume(:'secret' || i, 1, 0, limiter => 'api')) FROM generate_series(1, 200) i;
        SELECT count(rl_consume(:'secret' || i, 1, 0, limiter => 'api')) FROM generate_series(1, 50) i;
        SELECT count(rl_consume(:'secret' || ':' || i, 1, 0, limiter => :'evil')) FROM generate_series(1, 3) i;
        INSERT INTO rate_limit_policies (policy, capacity, refill, quota, shadow) VALUES ('trial', 1, 0, true, true);
        SELECT count(rl_consume_policy('trial', :'secret')) FROM generate_series(1, 4);
        SELECT rl_flush(), rl_flag(:'secret', 'api'), rl_acquire(:'secret', 3, 1, '1 hour');
        SELECT count(rl_consume(:'secret' || i, 1, 0, limiter => 'api')) FROM generate_series(1, 50) i;
        """, secret=SECRET, evil=EVIL)
    # more limiters than are counted
    sql("SELECT count(rl_consume('k', 1, 0, limiter => 'many ' || i)) FROM generate_series(1, 1500) i")


def check_exporters():
    """What the two exporters say; the names of the metrics."""
    config = read(f"{metrics}/sql-exporter.yml")
    config = re.sub(r"- postgres://\S+", f"- postgres://prometheus@127.0.0.1:{server_port}/app?sslmode=disable", config)
    config = config.replace("interval: 30s", "interval: 1s")
    with open(f"{work}/sql-exporter.yml", "w", encoding="utf-8") as file:
        file.write(config)
    start("postgres", "prometheus-postgres-exporter", f"--web.listen-address=127.0.0.1:{postgres_port}",
          f"--extend.query-path={metrics}/postgres-exporter.yml",
          DATA_SOURCE_NAME=f"user=prometheus host=127.0.0.1 port={server_port} dbname=app sslmode=disable")
    start("sql", "prometheus-sql-exporter", "-web.listen-address", f"127.0.0.1:{sql_port}",
          "-config.file", f"{work}/sql-exporter.yml", CONFIG=f"{work}/sql-exporter.yml")

    documented = column(read("docs/metrics.md"), "Metrics")
    texts = {}
    found = {}

    def answers(name, port, samples_of):
        """Does it say something, and all that it should?  One of them asks the queries one after the other."""
        texts[name] = fetch(f"http://127.0.0.1:{port}/metrics")
        found[name] = samples_of(parse(texts[name]))
        return {key[0] for key in found[name]} >= set(documented)

    for name, port, samples_of in (("postgres", postgres_port, lambda samples: only(samples, "server")),
                                   ("sql", sql_port, relabeled)):
        try:
            wait_for(f"metrics of prometheus-{name}-exporter", lambda: answers(name, port, samples_of))
        except RuntimeError:
            # what it lacks is said below
            if not found.get(name):
                raise
    for name, samples in found.items():
        names = {key[0] for key in samples}
        check(names == set(documented), f"{name}: the metrics are those that docs/metrics.md has", names ^ set(documented))
        limiters = {value for key in samples for label, value in key[1] if label == "limiter"}
        check(EVIL in limiters and {"api", "trial", "(other)"} <= limiters, f"{name}: limiters are labels, whatever their names are")
        check(900 < len(limiters) <= 1025, f"{name}: there is a bound to how many", len(limiters))
        check(SECRET not in texts[name], f"{name}: no key is in what it says")
        prefix = "ratelimit" if name == "postgres" else "sql_ratelimit"
        lint = run("promtool", "check", "metrics", input=of_extension(texts[name], prefix))
        check(lint.returncode == 0 and lint.stdout + lint.stderr == "", f"{name}: promtool finds nothing wrong with them", lint.stdout + lint.stderr)
    differ = [key for key in found["postgres"].keys() | found["sql"].keys()
              if not same(found["postgres"].get(key), found["sql"].get(key))]
    check(not differ, "both exporters say the same", differ[:5])

    def value(name, **labels):
        return found["postgres"][name, frozenset({"database": "app", **labels}.items())]

    told = [value("ratelimit_decisions_total", limiter="api", result=result) for result in ("allowed", "denied")]
    told += [value("ratelimit_decisions_total", limiter="trial", result="shadowed"),
             value("ratelimit_violations_flushed_total"), value("ratelimit_violations_pending"),
             value("ratelimit_flags"), value("ratelimit_tickets_held"), value("ratelimit_launcher_running"),
             value("ratelimit_enabled"), value("ratelimit_memory_slots"),
             value("ratelimit_buckets_living", limiter="api", store="memory")]
    slots = int(sql("SELECT sum(slots) FROM rl_partitions()"))
    check(told == [200, 100, 3, 53, 50, 1, 1, 1, 1, slots, 200], "the values are right", told)
    check(value("ratelimit_violations_pending_other") > 0, "... violations of (other), too")
    living = sum(number for (name, _), number in found["postgres"].items() if name == "ratelimit_buckets_living")
    check(living == int(sql("SELECT buckets_used FROM rate_limit_stats WHERE limiter IS NULL")), "all living buckets are in some limiter", living)
    return set(documented)


def check_alerts(names):
    config = run("promtool", "check", "config", f"{metrics}/prometheus.yml")
    check(config.returncode == 0, "promtool finds nothing wrong with prometheus.yml and alerts.yml", config.stdout + config.stderr)
    for file in (f"{metrics}/alerts.yml", f"{here}/alerts_test.yml"):
        with open(f"{work}/{os.path.basename(file)}", "w", encoding="utf-8") as copy:
            copy.write(read(file))
    tested = run("promtool", "test", "rules", "alerts_test.yml", cwd=work)
    check(tested.returncode == 0, "each alert is raised when it should be, and not before", tested.stdout + tested.stderr)
    rules = read(f"{metrics}/alerts.yml")
    alerts = re.findall(r"- alert: (\w+)", rules)
    check(alerts == column(read("docs/metrics.md"), "Alerts"), "docs/metrics.md has all of them")
    untested = [alert for alert in alerts if f'"{alert}", alertstate="firing"' not in read(f"{here}/alerts_test.yml")]
    check(not untested, "... each has a test in which it is raised", untested)
    for key in ("summary", "description", "runbook", "severity"):
        check(len(re.findall(rf"\b{key}: ", rules.split("groups:")[1])) == len(alerts), f"... and a {key}")
    missing = [link for link in re.findall(r"runbook: (docs/\S+)", rules)
               if link.split("#")[1] not in anchors(link.split("#")[0])]
    check(not missing, "... which leads somewhere", missing)
    unknown = set(re.findall(r"\bratelimit_\w+", re.sub(r"^ +(summary|description|runbook):.*$", "", rules, flags=re.M))) - names
    check(not unknown, "... and asks for metrics that there are", unknown)


def dashboard_queries(names):
    broken = run("jsonnet", "--version")
    if broken.returncode != 0:
        # in sid, a package may be there and its library not yet
        print(f"the dashboard is skipped: this Debian's jsonnet does not start: {broken.stderr.strip()}")
        return []
    made = run("jsonnet", f"{metrics}/dashboard.jsonnet")
    if not check(made.returncode == 0, "jsonnet makes the dashboard", made.stderr):
        return []
    dashboard = json.loads(made.stdout)
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    check(len(panels) == 20 and len(set(places)) == len(places), "... each panel at a place of its own", len(panels))
    queries = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    asked = [variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    unknown = {name for expr in asked + [query[1] for query in queries] for name in re.findall(r"\bratelimit_\w+", expr)} - names
    check(not unknown, "its queries ask for metrics that there are", unknown)
    for variable in ("instance", "database", "limiter"):
        queries = [(title, expr.replace(f'"${variable}"', '".*"')) for title, expr in queries]
    queries = [(title, expr.replace("$__rate_interval", "20s")) for title, expr in queries]
    check(not any("$" in expr for _, expr in queries), "... and use variables that there are")
    with open(f"{work}/dashboard-rules.yml", "w", encoding="utf-8") as file:
        json.dump({"groups": [{"name": "dashboard", "rules": [
            {"record": f"dashboard:query:{i}", "expr": expr} for i, (_, expr) in enumerate(queries)]}]}, file)
    parsed = run("promtool", "check", "rules", f"{work}/dashboard-rules.yml")
    check(parsed.returncode == 0, "... and promtool understands them", parsed.stdout + parsed.stderr)
    return queries


def check_prometheus(queries):
    """A real Prometheus reads both exporters."""
    os.makedirs(f"{work}/prometheus")
    config = read(f"{metrics}/prometheus.yml").replace("30s", "1s")
    config = config.replace(":9187", f":{postgres_port}").replace(":9237", f":{sql_port}")
    with open(f"{work}/prometheus.yml", "w", encoding="utf-8") as file:
        file.write(config)
    start("prometheus", "prometheus", f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/prometheus",
          f"--web.listen-address=127.0.0.1:{prometheus_port}")
    base = f"http://127.0.0.1:{prometheus_port}/api/v1/"

    def ask(expr):
        answer = json.loads(fetch(base + "query?" + urllib.parse.urlencode({"query": expr})))
        return answer["data"]["result"] if answer["status"] == "success" else None

    def often_scraped():
        sql("SELECT count(rl_consume(:'secret' || i % 300, 1, 0, limiter => 'api')) FROM generate_series(1, 100) i", secret=SECRET)
        return len(ask("count_over_time(ratelimit_memory_slots[1m]) >= 5")) == 2

    wait_for("five samples of each exporter", often_scraped)
    for title, expr in queries:
        found = ask(expr)
        check(found and all(sample["value"][1] != "NaN" for sample in found), f"Prometheus answers: {title}", expr + "\n" + json.dumps(found))
    for name in ("ratelimit_memory_slots", 'ratelimit_buckets_living{store="table"}', "ratelimit_launcher_running"):
        differ = ask(f"sum without (instance, job, server) ({name.replace('{', '{job=%s,' % json.dumps('postgres')) if '{' in name else name + '{job=%s}' % json.dumps('postgres')})"
                     f" != sum without (instance, job, server) ({name.replace('{', '{job=%s,' % json.dumps('sql')) if '{' in name else name + '{job=%s}' % json.dumps('sql')})")
        check(differ == [], f"both jobs have the same: {name}", differ)
    labels = ask('count by (database) (ratelimit_memory_slots{job="sql", col="", sql_job="", driver="", user=""})')
    check(len(labels) == 1 and labels[0]["metric"] == {"database": "app"}, "labels of prometheus-sql-exporter that say nothing are gone", labels)
    rules = [rule for group in json.loads(fetch(base + "rules"))["data"]["groups"] for rule in group["rules"]]
    bad = [rule for rule in rules if rule["health"] != "ok"]
    check(len(rules) == 12 and not bad, "it evaluates the alert rules", bad)


try:
    check_traffic()
    documented = check_exporters()
    check_alerts(documented)
    dashboard = dashboard_queries(documented)
    if form == "full":
        check_prometheus(dashboard)
except RuntimeError as error:
    check(False, "the test comes to its end", error)
finally:
    for child in children:
        child.terminate()
    for child in children:
        child.wait()
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
