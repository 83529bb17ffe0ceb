# test/bench/report.awk COMPARISONS SAMPLES: what the samples say.
# -v format=text: two lines for people; csv: a line for each comparison
# -v only=ID: of this comparison
#
# Medians; in brackets, least and most of the rounds.  A ratio is taken within each
# round, of measurements that are seconds apart.
BEGIN {
	FS = "\t"
	if (format == "csv")
		print "id,title,unit,ours,ours_min,ours_max,theirs,theirs_min,theirs_max,ratio,ratio_min,ratio_max,target,met,rounds"
}

FNR == NR {
	ids[++n_ids] = $1
	target[$1] = $2
	unit[$1] = $3
	title[$1] = $4
	next
}

{
	i = ++n[$1]
	ours[$1, i] = $3
	theirs[$1, i] = $4
	ratio[$1, i] = $4 == "-" ? $3 : $4 == 0 ? 0 : $3 / $4
}

END {
	for (k = 1; k <= n_ids; k++)
		if (n[ids[k]] && (only == "" || only == ids[k]))
			print_comparison(ids[k])
}

# Sets low, middle and high.
function spread(list, id,   i, j, m, x, swap) {
	m = n[id]
	for (i = 1; i <= m; i++)
		x[i] = list[id, i] + 0
	for (i = 1; i <= m; i++)
		for (j = i + 1; j <= m; j++)
			if (x[j] < x[i]) {
				swap = x[i]
				x[i] = x[j]
				x[j] = swap
			}
	low = x[1]
	high = x[m]
	middle = m % 2 ? x[(m + 1) / 2] : (x[m / 2] + x[m / 2 + 1]) / 2
}

function with_commas(x,   s) {
	s = sprintf("%.0f", x)
	while (match(s, /[0-9][0-9][0-9][0-9]($|,)/))
		s = substr(s, 1, RSTART) "," substr(s, RSTART + 1)
	return s
}

function number(x) {
	return (x >= 1000 || x == int(x)) ? with_commas(x) : sprintf("%.1f", x)
}

function fraction(x) {
	return x >= 1000 ? with_commas(x) : x >= 20 ? sprintf("%.1f", x) : sprintf("%.2f", x)
}

function side(list, id) {
	spread(list, id)
	if (format == "csv")
		return sprintf("%.6g,%.6g,%.6g", middle, low, high)
	return sprintf("%s%s (%s-%s)", number(middle), unit[id], number(low), number(high))
}

function print_comparison(id,   alone, part, met, a, b, r) {
	alone = theirs[id, 1] == "-"
	a = side(ours, id)
	b = alone ? (format == "csv" ? ",," : "") : side(theirs, id)
	spread(ratio, id)
	split(target[id], part, " ")
	met = "-"
	if (part[1] == ">=")
		met = middle >= part[2] ? "yes" : "no"
	else if (part[1] == "<=")
		met = middle <= part[2] ? "yes" : "no"

	if (format == "csv") {
		r = alone ? ",," : sprintf("%.6g,%.6g,%.6g", middle, low, high)
		sub(/^ /, "", unit[id])
		printf "%s,\"%s\",%s,%s,%s,%s,%s,%s,%d\n", id, title[id], unit[id], a, b, r, target[id], met, n[id]
		return
	}
	r = alone ? "" : sprintf("%s (%s-%s)", fraction(middle), fraction(low), fraction(high))
	printf "%s: %s\n", id, title[id]
	printf "    %-34s %-34s %-24s %-9s %s\n", a, b, r, target[id], met
}
