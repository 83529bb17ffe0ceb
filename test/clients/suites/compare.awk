# awk -v suite=SUITE -f compare.awk differences.tsv SUITE.own SUITE.ours: what of the suite does not
# hold, and last "SUITE: N hold, M do not, F failed".  Fields of the first file are the suite,
# the case and the reason; of the others "ok", "failed" or "skipped", the case, and the error.
BEGIN { FS = "\t" }

FILENAME ~ /differences\.tsv$/ {
	if ($1 == suite) reason[$2] = $3
	next
}

FILENAME ~ /\.own$/ {
	own[$2] = $1
	next
}

{ ours[$2] = $1; error[$2] = $3 }

END {
	for (name in own) {
		holds = ours[name] == "ok"
		# where much else is running, it may be late with its own store as well
		if (own[name] != "ok" && !(name in reason && !holds)) continue
		if (holds && !(name in reason)) {
			hold++
		} else if (!holds && name in reason) {
			print suite ": does not hold: " name ": " reason[name]
			differ++
		} else {
			print "not ok " suite ": " name (holds ? " holds, and is in differences.tsv" : " does not hold: " ours[name] " " error[name])
			failed++
		}
	}
	for (name in reason) {
		if (name in own) continue
		print "not ok " suite ": there is no case " name
		failed++
	}
	if (hold == 0) {
		print "not ok " suite ": no case has run"
		failed++
	}
	printf "%s: %d hold, %d do not, %d failed\n", suite, hold, differ, failed
}
