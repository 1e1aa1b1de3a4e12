#!/bin/sh
# Runs inside the guest, for `guest`: ROUNDS [OPTION OF OVERNFSD...]. Layers of both servers stand on the same tmpfs.
set -e
rounds=$1; shift
$OUT/syscall
export LD_LIBRARY_PATH=$PEER/usr/lib/x86_64-linux-gnu:$PEER/lib/x86_64-linux-gnu PATH=$PEER/usr/sbin:$PEER/sbin:$PATH HOME=/tmp
for s in nfsd overnfsd; do
	mkdir -p /mnt/$s/l1 /mnt/$s/l2 /mnt/$s/u /mnt/$s/w /mnt/$s/merged /mnt/$s/client
	tar xf $OUT/source.tar -C /mnt/$s/l2
done
# one server's life: start, mount
mkdir -p /run/sendsigs.omit.d /run/rpcbind /var/lib/nfs/sm /var/lib/nfs/v4recovery /var/lib/nfs/rpc_pipefs
: > /var/lib/nfs/etab; : > /var/lib/nfs/rmtab
n=/mnt/nfsd
$BB mount -t overlay overlay -o lowerdir=$n/l1:$n/l2,upperdir=$n/u,workdir=$n/w,nfs_export=on,index=on,redirect_dir=on $n/merged
$BB mount -t nfsd nfsd /proc/fs/nfsd
rpcbind -w || rpcbind
exportfs -i -o rw,${NFSD_SYNC:-sync},no_root_squash,no_subtree_check,insecure,fsid=77 127.0.0.1:$n/merged
rpc.mountd --no-nfs-version 4 --port 20048 || rpc.mountd --port 20048
rpc.nfsd --no-nfs-version 4 --nfs-version 3 --no-udp 4 || rpc.nfsd 4
unset LD_LIBRARY_PATH
o=/mnt/overnfsd
$OUT/overnfsd --lower $o/l1 --lower $o/l2 --upper $o/u --work $o/w --no-root-squash --no-rpcbind --port 3049 --sync --pid-file /tmp/overnfsd.pid "$@"
options=vers=3,proto=tcp,mountproto=tcp,nolock,addr=127.0.0.1
$BB mount -t nfs -o $options,port=2049,mountport=20048 127.0.0.1:$n/merged $n/client
$BB mount -t nfs -o $options,port=3049,mountport=3049 127.0.0.1:/overlay $o/client

timed() { # server, work, command
	t0=$(date +%s.%N); sh -c "$3" >/tmp/err 2>&1 || { echo "failed: $1 $2"; cat /tmp/err; }; t1=$(date +%s.%N)
	echo "time $1 $2 $(echo "$t1 $t0" | awk '{print $1 - $2}')"
}
for round in $(seq $rounds); do for s in nfsd overnfsd; do
	cd /mnt/$s/client
	timed $s untar "mkdir t$round && tar xf $OUT/source.tar -C t$round"
	timed $s git-status "cd t$round && git -c safe.directory=* status"
	timed $s git-status-lower "git -c safe.directory=* status"
	timed $s make "make -j4 -C t$round/c"
	timed $s rm "rm -rf t$round"
	cd /
done; done
# what the client waited for its calls: number, and mean time from the sending to the reply
awk '/^device/ { split($5, path, "/"); ops = 0 } /per-op statistics/ { ops = 1; next }
	ops && $2 > 0 { sub(":", "", $1); printf "calls %s %s %d %.1f\n", path[3], $1, $2, $8 * 1000 / $2 }' /proc/self/mountstats
$BB umount $o/client; $BB umount $n/client
kill $(cat /tmp/overnfsd.pid)
