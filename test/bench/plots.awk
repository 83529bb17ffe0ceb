# test/bench/plots.awk results.csv: writes a script for gnuplot for each plot for which
# there are results: ratios.gp, latency.gp, growth.gp, clients.gp.
BEGIN {
	FS = ","
	buckets["1k"] = 1000
	buckets["100k"] = 100000
	buckets["1M"] = 1000000
	buckets["10M"] = 10000000
}

FNR > 1 {
	gsub(/"[^"]*"/, "")
	id = $1
	if (id ~ /latency/)
		latency = latency "\"" id "\" " $4 " " $5 " " $6 " " $7 " " $8 " " $9 "\n"
	else if ($3 == "/s")
		ratios = ratios "\"" id "\" " $10 " " $11 " " $12 " " target($13) "\n"
	if (id ~ /^growth_[0-9]/) {
		growth = growth buckets[substr(id, 8)] " " $4 "\n"
		smallest = buckets["1k"] " " $7 "\n"
	}
	if (id ~ /^clients_[0-9]/ || id == "floor")
		clients = clients (id == "floor" ? 8 : substr(id, 9)) " " $4 " " $7 "\n"
}

END {
	if (ratios) {
		begin("ratios", "calls per second, ours / theirs", ratios, by_row)
		print "plot 1 lc 'gray' notitle, $data using 0:2:3:4:xtic(1) with yerrorbars pt 7 title 'ratio', '' using 0:5 pt 2 title 'target'" >file
	}
	if (latency) {
		begin("latency", "microseconds, at half of the maximum", latency, by_row)
		print "plot $data using ($0 - 0.1):2:3:4:xtic(1) with yerrorbars pt 7 title 'ours', '' using ($0 + 0.1):5:6:7 with yerrorbars pt 6 title 'theirs'" >file
	}
	if (growth) {
		begin("growth", "ns per call, in one query", smallest growth, \
			"set xlabel 'living buckets'\nset logscale x\nset format x '%.0s%c'\nset nokey")
		print "plot $data using 1:2 smooth unique with linespoints pt 7" >file
	}
	if (split(clients, lines, "\n") > 2) {
		begin("clients", "calls per second", clients, \
			"set xlabel 'clients'\nset logscale x 2\nset key bottom")
		print "plot $data using 1:2 smooth unique with linespoints pt 7 title 'rl\\_consume', '' using 1:3 smooth unique with linespoints pt 6 title 'SELECT length(...)'" >file
	}
}

function target(text) {
	return text ~ /^>= / ? substr(text, 4) : "NaN"
}

# by_row: a name each, values of any size
function begin(name, label, lines, settings) {
	if (settings == by_row)
		settings = "set logscale y\nset xtics rotate by -45 noenhanced\nset key top outside\nset offsets 0.5, 0.5, 0, 0"
	else
		settings = settings "\nset yrange [0:]"
	file = name ".gp"
	print "set terminal svg size 1000,500 background 'white'\nset output '" name ".svg'\nset grid y\nset ylabel '" label "'\n" settings >file
	printf "$data << END\n%sEND\n", lines >file
}
