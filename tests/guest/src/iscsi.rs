//! The kernel's iSCSI initiator.

use std::time::Duration;

use guest::{HOST_ADDRESS, Result};

use crate::World;

const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(400);

/// A device of an engine with a file system; the disk is taken out of the kernel and found again.
pub fn file_system(w: &mut World) -> Result<()> {
    w.cluster.engine(0, &["bdev", "create", "malloc:///scsi?size_mb=160"])?;
    let shared = w.cluster.engine(0, &["bdev", "share", "scsi", "iscsi"])?;
    let uri = shared["uri"].as_str().or(shared.as_str()).ok_or("no URI")?.to_owned();
    let device = log_in(w, &uri)?;
    let about = w.vm.run(&format!("cat /sys/block/{0}/device/vendor /sys/block/{0}/device/model", device), SHORT)?;
    if !about.contains("MAYADATA") || !about.contains("Mayastor Device") {
        return Err(format!("the disk is not ours: {about}").into());
    }
    w.vm.run(
        &format!(
            "set -e
             modprobe ext4
             mkfs.ext4 -q -F /dev/{device}
             mount -t ext4 -o discard /dev/{device} /mnt
             cp -r /bin /lib /mnt/
             dd if=/dev/urandom of=/mnt/random bs=1M count=40 conv=fsync
             rm -r /mnt/lib && sync && busybox fstrim /mnt"
        ),
        LONG,
    )?;
    let before = w.vm.run("cd /mnt && find . -type f | sort | xargs sha256sum", LONG)?;
    w.vm.run(&format!("umount /mnt && e2fsck -fn /dev/{device}"), LONG)?;
    take_out(w, &device)?;
    let device = find_again(w)?;
    w.vm.run(&format!("mount -t ext4 /dev/{device} /mnt"), SHORT)?;
    let after = w.vm.run("cd /mnt && find . -type f | sort | xargs sha256sum", LONG)?;
    w.vm.run("umount /mnt", SHORT)?;
    if before != after || before.lines().count() < 2 {
        let differs = before.lines().zip(after.lines()).find(|(a, b)| a != b);
        let (n, m) = (before.lines().count(), after.lines().count());
        return Err(format!("{n} and {m} files, first difference: {differs:?}").into());
    }
    take_out(w, &device)?;
    w.cluster.engine(0, &["bdev", "destroy", "scsi"]).map(|_| ())
}

/// Waits for the disk of the session, and says its name.
const WAIT: &str = "for i in $(seq 100); do
   for d in /sys/class/iscsi_session/session*/device/target*/*/block/*; do
     [ -b /dev/$(basename $d) ] && { basename $d; exit 0; }
   done
   sleep 0.1
 done
 echo 'no disk appeared' >&2; dmesg | tail -20 >&2; exit 1";

/// Logs in; the name of the disk.
fn log_in(w: &mut World, uri: &str) -> Result<String> {
    let (authority, path) = uri.trim_start_matches("iscsi://").split_once('/').ok_or("a URI with a path")?;
    let port = authority.rsplit_once(':').ok_or("a URI with a port")?.1;
    let name = path.trim_end_matches("/0");
    let script = format!(
        "modprobe iscsi_tcp; modprobe sd_mod
         iscsistart -i iqn.2000-01.org.example:guest -t {name} -g 0 -a {HOST_ADDRESS} -p {port} >&2 || exit 1
         {WAIT}"
    );
    Ok(w.vm.run(&script, SHORT)?.lines().last().unwrap_or_default().trim().to_owned())
}

/// Takes the disk out of the kernel, so that nothing of it is cached; the session stays.
fn take_out(w: &mut World, device: &str) -> Result<()> {
    w.vm.run(&format!("sync; echo 1 > /sys/block/{device}/device/delete"), SHORT).map(|_| ())
}

/// Lets the kernel look for the disk again; its name.
fn find_again(w: &mut World) -> Result<String> {
    let script = format!("for h in /sys/class/scsi_host/host*; do echo '- - -' > $h/scan; done; {WAIT}");
    Ok(w.vm.run(&script, SHORT)?.lines().last().unwrap_or_default().trim().to_owned())
}
