#!/bin/bash
# How the daemon starts, refuses to start, and stops. Each refusal is one line that says what to do, exit code 1, and nothing touched.
set -u
overnfsd=$(realpath "${OVERNFSD:-build/overnfsd}")
dir=$(mktemp -d /tmp/overnfsd-startup.XXXXXX)
passed=0 failed=0 pids= mounts=
cleanup() {
	for pid in $pids; do kill -9 "$pid" 2>/dev/null; done
	for m in $mounts; do umount "$m" 2>/dev/null; done
	rm -rf "$dir"
}
trap cleanup EXIT
chmod 755 "$dir"
cd "$dir" || exit 1
mkdir -p lower/in lower2 upper work other empty
echo text >lower/in/file; echo 'not a directory' >plain; ln -s lower link; ln -s nowhere dangling
ok() { passed=$((passed + 1)); }
no() { failed=$((failed + 1)); echo "[  FAILED  ] $1: $2"; }

picture() { # names, types, modes, sizes, times, xattrs of everything but what the test itself writes
	find . -path ./out -prune -o -path ./err -prune -o -printf '%p %y %i %m %U %s %T@ %C@ %l\n' | grep -v '^\. ' | sort
	getfattr -R -d -m - --absolute-names lower lower2 upper work other 2>/dev/null
}
# sentence, pattern of the message, options...
refuses() {
	local name=$1 pattern=$2 before rc; shift 2
	before=$(picture)
	timeout 60 "$overnfsd" --foreground --no-rpcbind "$@" >out 2>err; rc=$?
	if [ $rc -ne 1 ]; then no "$name" "exit code $rc: $(cat err)"
	elif [ "$(wc -l <err)" -ne 1 ] || ! grep -q '^overnfsd: ' err; then no "$name" "not one line: $(cat err)"
	elif ! grep -qE -- "$pattern" err; then no "$name" "says: $(cat err)"
	elif [ -s out ]; then no "$name" "printed: $(cat out)"
	elif [ "$before" != "$(picture)" ]; then no "$name" "touched: $(diff <(echo "$before") <(picture))"
	else ok; fi
}
# start NAME options...: in the background, over a free port; its JSON is in NAME.json
start() {
	local name=$1; shift
	rm -f "$name.json" # or the last one's would be taken for it
	env --default-signal=INT "$overnfsd" --foreground --json --no-rpcbind "$@" >"$name.json" 2>"$name.log" &
	eval "$name=$!"; pids="$pids $!"
	while [ ! -s "$name.json" ]; do kill -0 $! 2>/dev/null || { cat "$name.log"; return 1; }; sleep 0.05; done
}
json() { sed -n 's/.*"'"$2"'":"\{0,1\}\([^",}]*\).*/\1/p' "$1.json"; }
stop() { kill -TERM "$1"; wait "$1"; }

refuses a_missing_layer_is_named 'layer .*/absent: No such file' --lower "$dir/absent"
deep=$(printf '/%0200d' 1 2 3 4 5)
refuses a_long_path_leaves_room_for_what_is_wrong '5: No such file' --lower "$dir$deep"
refuses a_layer_that_dangles_is_named 'layer .*/dangling: No such file' --lower "$dir/dangling"
refuses a_file_is_no_layer 'plain: is not a directory' --lower "$dir/plain"
refuses an_upper_that_is_a_file_is_refused 'plain: is not a directory' --lower "$dir/lower" --upper "$dir/plain"
refuses no_layer_at_all_is_refused 'no layer given: name at least one'
refuses a_relative_path_is_refused 'must be an absolute path' --lower lower
refuses a_lower_inside_the_upper_is_refused 'lower/in lies inside .*/lower' --lower "$dir/lower/in" --upper "$dir/lower"
refuses an_upper_inside_a_lower_is_refused 'lower/in lies inside .*/lower' --lower "$dir/lower" --upper "$dir/lower/in"
refuses an_upper_inside_the_work_directory_is_refused 'lies inside' --lower "$dir/lower2" --upper "$dir/lower/in" --work "$dir/lower"
refuses a_work_directory_inside_the_upper_is_refused 'lies inside' --lower "$dir/lower2" --upper "$dir/lower" --work "$dir/lower/in"
refuses nested_lowers_are_refused 'lies inside' --lower "$dir/lower" --lower "$dir/lower/in"
refuses a_lower_given_twice_is_refused 'lower is used twice' --lower "$dir/lower" --lower "$dir/lower"
refuses a_lower_that_is_the_upper_is_refused 'upper is used twice' --lower "$dir/upper" --upper "$dir/upper"
refuses a_work_directory_that_is_the_upper_is_refused 'upper is used twice' --lower "$dir/lower" --upper "$dir/upper" --work "$dir/upper"
refuses a_link_to_a_layer_is_that_layer 'same directory, used twice' --lower "$dir/lower" --lower "$dir/link"
refuses a_link_into_a_layer_is_inside_it 'lies inside' --lower "$dir/link/in" --upper "$dir/lower"
refuses a_work_directory_without_an_upper_is_refused 'needs an upper layer: add --upper' --lower "$dir/lower" --work "$dir/work"
refuses read_write_without_an_upper_is_refused 'needs a writable layer: add --upper' --lower "$dir/lower" --rw
many=(); for i in $(seq 501); do many+=(--lower "$dir/lower"); done
refuses lowers_501_are_too_many '501 lower layers given; at most 500' "${many[@]}"
refuses lowers_502_are_too_many 'at most 500' "${many[@]}" --lower "$dir/lower"

refuses an_unknown_option_gets_advice 'did you mean --lower' --lowr "$dir/lower"
refuses an_option_half_known_gets_advice 'did you mean --no-root-squash' --root-squash --lower "$dir/lower"
refuses help_takes_no_value 'help: it takes no value' --help=port
refuses an_option_from_nowhere_is_refused 'there is no such option; overnfsd --help' --zzz
refuses a_letter_that_is_no_option_is_refused '^overnfsd: -x: there is no such option' -x --lower "$dir/lower"
refuses a_missing_value_is_named 'lower: it needs a value' --lower
refuses a_value_for_a_switch_is_refused 'json: it takes no value' --json=yes --lower "$dir/lower"
refuses a_bare_word_gets_advice 'a layer is given with --lower' "$dir/lower"
refuses a_port_too_high_is_refused 'port 65536: it must be a port' --lower "$dir/lower" --port 65536
refuses a_port_below_zero_is_refused 'it must be a port' --lower "$dir/lower" --port -1
refuses a_port_with_letters_is_refused 'it must be a port' --lower "$dir/lower" --port 20x
refuses a_bad_mount_port_is_refused 'it must be a port' --lower "$dir/lower" --mount-port 99999
refuses a_bad_address_is_refused 'is not an address; write one like 127.0.0.1' --lower "$dir/lower" --listen localhost
refuses an_address_of_another_machine_is_refused 'must be an address of this machine' --lower "$dir/lower" --port 0 --listen 192.0.2.77
refuses an_address_given_twice_is_told 'in use; unless .* two of the addresses given are one' --lower "$dir/lower" --port 0 --listen 0.0.0.0 --listen 127.0.0.1
refuses a_layer_that_moved_nowhere_is_refused 'moved .*NEW must be a --lower' --lower "$dir/lower" --moved /old=/new
refuses no_threads_are_refused '1 to 1000' --lower "$dir/lower" --threads 0
refuses a_busy_poll_of_more_than_a_millisecond_is_refused 'microseconds from 0 to 1000, or auto' --lower "$dir/lower" --busy-poll 1001
refuses too_many_threads_are_refused '1 to 1000' --lower "$dir/lower" --threads 1001
refuses a_tiny_table_is_refused '16 or more' --lower "$dir/lower" --max-objects 3
refuses an_unknown_log_level_is_refused 'error, warning, notice' --lower "$dir/lower" --log-level loud
refuses bad_clients_are_refused 'is not a range of addresses' --lower "$dir/lower" --clients 10.0.0.0/33
refuses clients_by_name_are_refused "'host.example' is not a range" --lower "$dir/lower" --clients 10.0.0.0/8,host.example
refuses no_clients_are_refused 'no range of addresses' --lower "$dir/lower" --clients ''
refuses a_relative_export_is_refused "absolute path" --lower "$dir/lower" --export overlay
refuses an_export_with_dots_is_refused "absolute path" --lower "$dir/lower" --export /a/../b
refuses an_export_with_an_empty_name_is_refused "absolute path" --lower "$dir/lower" --export //a
echo zz >key
refuses a_key_file_that_is_none_is_refused '32 hex digits' --lower "$dir/lower" --port 0 --key-file "$dir/key"
refuses a_key_file_nowhere_is_refused 'No such file' --lower "$dir/lower" --port 0 --key-file "$dir/absent/key"
refuses a_pid_file_nowhere_is_refused 'No such file' --lower "$dir/lower" --upper "$dir/upper" --work "$dir/work" --port 0 --pid-file "$dir/absent/pid"

config() { # sentence, pattern, text of the file
	printf '%b' "$3" >conf
	refuses "$1" "--config conf: $2" --config conf
}
config a_mistake_in_the_file_is_told_with_its_line 'line 3: threads = none: it must be a number' "lower = $dir/lower\n# fine\nthreads = none\n"
config an_unknown_name_in_the_file_gets_advice 'line 1: lowe = .*did you mean lower\?' "lowe = $dir/lower\n"
config a_line_without_equals_is_refused "line 2: it must be 'name = value'" "\njust words\n"
config a_section_is_refused 'line 1: there are no sections' "[global]\nlower = $dir/lower\n"
config a_switch_takes_yes_or_no_alone 'line 1: ro = maybe: it must be yes or no' "ro = maybe\n"
config a_layer_in_quotes_is_told_with_its_line 'line 1: lower = "/srv": it must be an absolute path' 'lower = "/srv"\n'
config a_file_cannot_ask_for_repair 'line 1: repair = yes: .*overnfsctl' 'repair = yes\n'
config a_file_cannot_name_another "line 1: config = x: .*can't name another" "config = x\n"
config a_nul_in_the_file_is_refused 'line 2: it holds a NUL byte' 'port = 0\nlower = /a\0b\n'
long=$dir/$(printf 'x%.0s' $(seq 250))
config a_long_line_is_read_whole "line 2: port = 1$(printf '0%.0s' $(seq 300)): it must be a port" "lower = $long\nport = 1$(printf '0%.0s' $(seq 300))\n"
refuses a_configuration_file_that_is_absent_is_named "absent: it can't be read: No such file" --config absent
refuses a_directory_is_no_configuration_file "it can't be read: Is a directory" --config lower
rm -f conf key

"$overnfsd" --help >out 2>err; rc=$?
if [ $rc -eq 0 ] && [ ! -s err ] && [ "$(grep -c '^  --' out)" -ge 20 ] && [ "$(awk 'length > 140' out | wc -l)" -eq 0 ]; then ok; else no help_lists_the_options "$rc"; fi
"$overnfsd" --version >out 2>err; rc=$?
if [ $rc -eq 0 ] && [ ! -s err ] && grep -qE '^overnfsd [0-9.]+$' out; then ok; else no version_is_one_line "$rc $(cat out)"; fi

# ---- servers that do start ----
if start one --lower "$dir/lower" --upper "$dir/upper" --work "$dir/work" --port 0; then
	port=$(json one port)
	refuses a_port_in_use_is_told "port $port: Address already in use; another server has that port" --lower "$dir/lower" --upper "$dir/other" --port "$port"
	refuses an_upper_that_is_served_is_refused 'upper is in use by another overnfsd' --lower "$dir/lower" --upper "$dir/upper" --port 0
	refuses an_upper_that_is_served_is_refused_read_only_too 'in use by another overnfsd' --lower "$dir/lower" --upper "$dir/upper" --ro --port 0
	mkdir other2; refuses a_work_directory_that_is_used_is_refused 'work is in use by another overnfsd' --lower "$dir/lower" --upper "$dir/other" --work "$dir/work" --port 0
	if start two --lower "$dir/lower" --port 0 && stop "$two"; then ok; else no a_lower_may_be_served_twice "$(cat two.log)"; fi
	kill -HUP "$one"; sleep 0.2
	if kill -0 "$one"; then ok; else no a_hangup_is_harmless "gone"; fi
	if grep -q '"read_only":false' one.json && grep -q "\"lowers\":\[\"$dir/lower\"\]" one.json && [ "$(json one pid)" = "$one" ] && [ "$(wc -l <one.json)" -eq 1 ]; then ok; else no json_says_what_is_served "$(cat one.json)"; fi
	if stop "$one"; then ok; else no a_server_that_is_told_to_stop_exits_0 $?; fi
	if start one --lower "$dir/lower" --upper "$dir/upper" --work "$dir/work" --port "$port" && kill -INT "$one" && wait "$one"; then ok; else no an_interrupt_ends_it_cleanly "$(cat one.log)"; fi
	start one --lower "$dir/lower" --upper "$dir/upper" --work "$dir/work" --port 0; kill -9 "$one"; wait "$one" 2>/dev/null
	if start one --lower "$dir/lower" --upper "$dir/upper" --work "$dir/work" --port 0 && stop "$one"; then ok; else no a_lock_goes_with_its_process "$(cat one.log)"; fi
else no the_server_starts "$(cat one.log)"; fi

start_config() { printf '%b' "$1" >conf; shift; start one --config conf "$@"; }
if start_config "lower=$dir/lower\r\n\r\n  ; comment\n\tport =0\nlower\t=\t$dir/lower2 \nro = no\nexport = /x/" && [ "$(json one export)" = /x ] &&
	grep -q "\[\"$dir/lower\",\"$dir/lower2\"\]" one.json && stop "$one"; then ok; else no a_file_with_blanks_comments_and_crlf_is_read "$(cat one.json one.log)"; fi
if start_config "\xef\xbb\xbflower = $dir/lower\r\nport = 0\r\n" && stop "$one"; then ok; else no a_byte_order_mark_is_passed_over "$(cat one.log)"; fi
if start_config "lower = $dir/lower\nport = 1\n" --port 0 && [ "$(json one port)" -gt 1 ] && stop "$one"; then ok; else no options_behind_the_file_count_more "$(cat one.log)"; fi
mkdir "$long"
if start_config "lower = $long\nport = 0\n" && grep -q "$long" one.json && stop "$one"; then ok; else no a_long_path_in_the_file_is_kept_whole "$(cat one.log)"; fi
rm -f conf

if start one --lower "$dir/lower" --port 0 --export '/a"b\c' && python3 -c 'import json,sys; j = json.load(open("one.json")); sys.exit(not j["mount"].endswith(":" + j["export"] + " /mnt"))' &&
	stop "$one"; then ok; else no json_quotes_what_must_be "$(cat one.json one.log)"; fi
if (ulimit -f 1000000 && start one --lower "$dir/lower" --upper "$dir/upper" --work "$dir/work" --port 0 && stop "$one"); then ok; else no a_limit_of_file_sizes_does_not_end_it "$(cat one.log)"; fi

many=(); for i in $(seq 2 17); do many+=(--listen "127.0.0.$i"); done
if start one --lower "$dir/lower" --port 0 --mount-port 0 "${many[@]}" && stop "$one"; then ok; else no each_of_16_addresses_may_have_two_ports "$(cat one.log)"; fi

# NULL of NFS over a new connection to port $1: is it answered?
answers() {
	local reply
	exec 9<>"/dev/tcp/127.0.0.1/$1" || return 1
	printf '\x80\0\0\x28\0\0\0\x07\0\0\0\0\0\0\0\x02\0\x01\x86\xa3\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0' >&9
	reply=$(timeout 5 head -c 28 <&9 | od -An -tx1 | tr -d ' \n'); exec 9>&-
	[ "${reply:8:8}" = 00000007 ]
}

# ---- as a daemon ----
# whoever starts it may have closed what nobody reads: no descriptor of the server's must get those numbers
for closed in '<&-' '>&- 2>&-' '<&- >&- 2>&-'; do
	port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
	eval '"$overnfsd" --lower "$dir/lower" --threads 4 --port $port --no-rpcbind --pid-file pid >out '"$closed"
	pid=$(cat pid 2>/dev/null); pids="$pids ${pid:-}"
	if [ -n "$pid" ] && answers "$port" && answers "$port" && kill -TERM "$pid"; then ok; else no "a_daemon_serves_whose_starter_closed $closed" "it does not"; kill -9 "$pid"; fi
	while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done; rm -f pid
done
"$overnfsd" --lower "$dir/lower" --upper "$dir/upper" --work "$dir/work" --port 0 --no-rpcbind --pid-file pid >out 2>err; rc=$?
pid=$(cat pid 2>/dev/null); pids="$pids ${pid:-}"
if [ $rc -eq 0 ] && [ -n "$pid" ] && kill -0 "$pid" && [ "$(readlink "/proc/$pid/cwd")" = / ] && [ "$(readlink "/proc/$pid/fd/2")" = /dev/null ] &&
	[ "$(awk '{print $4}' "/proc/$pid/stat")" != $$ ] && grep -q '^overnfsd serves /overlay' out && grep -q 'mount -t nfs' out; then ok; else no a_daemon_leaves_the_terminal "$rc $(cat out err)"; fi
refuses a_second_server_leaves_the_pid_file_alone 'in use by another' --lower "$dir/lower" --upper "$dir/upper" --port 0 --pid-file pid
refuses a_second_server_of_other_layers_leaves_it_alone_too 'pid file pid: it is in use' --lower "$dir/lower2" --port 0 --pid-file pid
kill -TERM "$pid"; while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
if [ ! -e pid ]; then ok; else no the_pid_file_goes_with_the_daemon "still there"; fi
mkdir apart # whose map Linux would show, which is told before anybody relies on it
for work in '' "--work $dir/work" --ro; do
	"$overnfsd" --lower "$dir/lower" --upper "$dir/apart" $work --port 0 --no-rpcbind --pid-file pid2 >out2 2>err; pid=$(cat pid2); pids="$pids $pid"
	kill -TERM "$pid"; while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
	told=$(grep -c 'map .*\.overnfsd .*give --work' out2)
	if [ "$told" -eq "$([ -n "$work" ]; echo $?)" ]; then ok; else no "where the map stands is told where it matters ($work)" "$(cat out2 err)"; fi
	rm -rf apart/.overnfsd work/* work/.[!.]*
done
rm -rf apart out2
before=$(picture)
"$overnfsd" --lower "$dir/absent" --no-rpcbind --pid-file pid >out 2>err; rc=$?
if [ $rc -eq 1 ] && [ "$(wc -l <err)" -eq 1 ] && [ "$before" = "$(picture)" ]; then ok; else no a_daemon_that_cannot_start_says_so "$rc $(cat err)"; fi

# the start is held up where it reads the key; the lock on the pid file goes with the daemon
mkfifo fifo
timeout 1 "$overnfsd" --lower "$dir/lower" --port 0 --no-rpcbind --pid-file pid --key-file fifo >out 2>err
timeout 5 sh -c 'echo 00112233445566778899aabbccddeeff >fifo'
if timeout 5 flock pid true && [ ! -s out ] && grep -q 'the start was interrupted' err; then ok; else no a_start_that_is_interrupted_leaves_no_daemon "$(cat out err)"; kill "$(cat pid)"; fi
rm -f pid fifo

# ---- what root alone can set up ----
if [ "$(id -u)" -eq 0 ]; then
	as_user() { setpriv --reuid 65533 --regid 65533 --clear-groups "$@"; }
	run=$overnfsd; chmod 755 lower lower2 upper work other; cp "$run" ./served; chmod 755 served; overnfsd="as_user $dir/served"
	overnfsd_as_user() { as_user "$dir/served" "$@"; }
	overnfsd=overnfsd_as_user
	refuses_user() { local n=$1; shift; timeout() { shift; "$@"; }; refuses "$n" "$@"; unset -f timeout; }
	chmod 700 lower2
	refuses_user a_lower_that_cannot_be_read_is_named "lower2: the server can't read it: Permission denied" --lower "$dir/lower2" --port 0
	chmod 755 lower2
	refuses_user an_upper_that_cannot_be_written_is_named "other: the server can't write it: Permission denied" --lower "$dir/lower" --upper "$dir/other" --port 0
	refuses_user a_low_port_needs_root 'ports below 1024 need root' --lower "$dir/lower" --port 80
	mkdir mine mine/upper mine/work; chown -R 65533:65533 mine
	setpriv --reuid 65533 --regid 65533 --clear-groups "$dir/served" --lower "$dir/lower" --upper "$dir/mine/upper" --work "$dir/mine/work" --port 0 --no-rpcbind --foreground >out 2>err & user=$!; pids="$pids $user"
	while [ ! -s out ]; do kill -0 $user 2>/dev/null || break; sleep 0.05; done
	if grep -q 'without root: new files belong to user 65533' out && stop $user; then ok; else no a_server_without_root_says_so "$(cat out err)"; fi
	overnfsd=$run
	rm -rf mine served
	if mount --bind lower empty 2>/dev/null; then
		mounts=$dir/empty
		refuses a_bind_mount_of_a_layer_is_that_layer 'same directory, used twice' --lower "$dir/lower" --lower "$dir/empty" --port 0
		umount empty; mounts=
		mount --bind work empty; mounts="$dir/empty"
		refuses a_work_directory_on_another_mount_is_refused 'different mounts, .*: name both by paths of one mount' --lower "$dir/lower" --upper "$dir/upper" --work "$dir/empty" --port 0
		umount empty; mounts=
	else echo "skipped: a bind mount can't be made here"; fi
	if mount -t tmpfs none empty 2>/dev/null; then
		mounts=$dir/empty; mkdir empty/work
		refuses a_work_directory_on_another_file_system_is_refused 'different file systems: put the work directory beside the upper' --lower "$dir/lower" --upper "$dir/upper" --work "$dir/empty/work" --port 0
		mount -o remount,ro empty
		refuses an_upper_on_a_read_only_file_system_is_refused 'Read-only file system' --lower "$dir/lower" --upper "$dir/empty/work" --port 0
		umount empty; mounts=
		mount -t tmpfs -o size=4k none empty; mounts=$dir/empty; cat /dev/zero >empty/full 2>/dev/null
		"$overnfsd" --foreground --lower "$dir/lower" --port 0 --no-rpcbind --key-file "$dir/empty/key" >out 2>err; rc=$?
		if [ $rc -eq 1 ] && grep -q 'key file .*: No space left' err && [ ! -e empty/key ]; then ok; else no a_key_that_could_not_be_written_leaves_no_file "$rc $(cat err)"; fi
		umount empty; mounts=
	else echo "skipped: a tmpfs can't be mounted here"; fi
else echo "skipped: refusals for want of permission and by bind mounts are set up by root alone"; fi
echo "[  PASSED  ] $passed test(s)."
[ $failed -eq 0 ] || echo "[  FAILED  ] $failed test(s)."
[ $failed -eq 0 ]
