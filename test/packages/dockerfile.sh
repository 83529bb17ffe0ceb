# test/packages/dockerfile.sh: what the lines of a Dockerfile do, where no registry can be
# reached.  It knows ARG, FROM, RUN in one line each and COPY of one file or folder into a folder, and no others.
# shellcheck shell=bash disable=SC2154 # test/roots.sh sets them

# dockerfile FILE CONTEXT POSTGRES NAME PG_MAJOR: $root is the image; POSTGRES is a root that
# stands for postgres:PG_MAJOR.  The roots of its stages are NAME-0, NAME-1, ...
dockerfile()
{
	local file=$1 context=$2 postgres=$3 name=$4 major=$5 instruction rest from words n=0
	declare -A stage

	while read -r instruction rest; do
		case $instruction in
			"" | "#"*) ;;
			ARG)
				[[ $rest =~ ^PG_MAJOR(=[0-9]+)?$ ]]
				;;
			FROM)
				# shellcheck disable=SC2016 # as the file has it
				rest=${rest//'${PG_MAJOR}'/$major}
				read -ra words <<<"$rest"
				case ${words[0]} in
					"postgres:$major") copy "$name-$n" "$postgres" ;;
					scratch) root=$work/$name-$n && mkdir "$root" ;;
					*) echo "unknown: FROM $rest" >&2 && return 1 ;;
				esac
				[ "${words[1]:-}" != AS ] || stage[${words[2]}]=$root
				n=$((n + 1))
				;;
			RUN)
				in_root env PG_MAJOR="$major" sh -c "$rest"
				;;
			COPY)
				read -ra words <<<"$rest"
				from=$context
				if [[ ${words[0]} == --from=* ]]; then
					from=${stage[${words[0]#--from=}]}
					words=("${words[@]:1}")
				fi
				[ ${#words[@]} = 2 ] && [[ ${words[1]} == /* ]]
				mkdir -p "$root${words[1]}"
				if [ -d "$from/${words[0]}" ]; then
					cp -a "$from/${words[0]}/." "$root${words[1]}"
				else
					cp -a "$from/${words[0]}" "$root${words[1]}"
				fi
				;;
			*)
				echo "unknown: $instruction" >&2
				return 1
				;;
		esac
	done <"$file"
	echo "$root" >"$work/$name.image"
}
