//! One running guest.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::image::Image;
use crate::{HOST_ADDRESS, Result};

/// How long a guest may take to boot; seconds on a quiet machine.
const BOOT: Duration = Duration::from_secs(240);
/// Scripts that can run at the same time.
const PORTS: usize = 3;

/// What a script in the guest did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; 124 when it took too long.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// A running guest; it ends with this value, and with this process.
pub struct Vm {
    qemu: Child,
    ports: Vec<Port>,
    folder: PathBuf,
}

struct Port {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Vm {
    /// Boots a guest whose files (console log, sockets) lie in `folder`.
    pub fn boot(image: &Image, folder: &Path) -> Result<Vm> {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder)?;
        let log = fs::File::create(folder.join("qemu.log"))?;
        // setpriv lets the guest end with us, however we end.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(arguments(image, folder))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        command.process_group(0);
        let qemu = command.spawn().map_err(|e| format!("cannot start setpriv with qemu-system-x86_64: {e}"))?;
        let mut vm = Vm { qemu, ports: Vec::new(), folder: folder.to_owned() };
        let end = Instant::now() + BOOT;
        for k in 0..PORTS {
            let port = vm.open_port(&folder.join(format!("port{k}")), end)?;
            vm.ports.push(port);
        }
        Ok(vm)
    }

    fn open_port(&mut self, path: &Path, end: Instant) -> Result<Port> {
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(e) if Instant::now() > end => return Err(format!("the guest has no port: {e}").into()),
                Err(_) if self.qemu.try_wait()?.is_some() => return Err(self.died()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        stream.set_read_timeout(Some(end.saturating_duration_since(Instant::now()).max(Duration::from_secs(1))))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line).map_err(|e| format!("the guest did not boot: {e}\n{}", self.console()))?;
        if line != "READY\n" {
            return Err(format!("the guest's agent said {line:?}\n{}", self.console()).into());
        }
        Ok(Port { reader, writer: stream })
    }

    fn died(&self) -> Box<dyn std::error::Error + Send + Sync> {
        let log = fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default();
        format!("QEMU ended: {log}\n{}", self.console()).into()
    }

    /// The guest's console log so far.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("console.log")).unwrap_or_default()).into_owned()
    }

    /// Runs a script in the guest on one of the ports 0..3.
    pub fn run_on(&mut self, port: usize, script: &str, limit: Duration) -> Result<Ran> {
        self.begin(port, script, limit)?;
        self.end(port)
    }

    /// Starts a script; [`Vm::end`] waits for it.
    pub fn begin(&mut self, port: usize, script: &str, limit: Duration) -> Result<()> {
        let p = &mut self.ports[port];
        p.writer.set_read_timeout(Some(limit + Duration::from_secs(60)))?;
        write!(p.writer, "{} {}\n{script}", limit.as_millis(), script.len())?;
        Ok(())
    }

    /// Waits for the script that was started on a port.
    pub fn end(&mut self, port: usize) -> Result<Ran> {
        let mut head = String::new();
        let p = &mut self.ports[port];
        if let Err(e) = p.reader.read_line(&mut head) {
            return Err(format!("the guest does not answer: {e}\n{}", self.console()).into());
        }
        let numbers: Vec<usize> = head.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        let [code, out, err] = numbers[..] else { return Err(format!("the guest's agent said {head:?}").into()) };
        let mut take = |n: usize| -> Result<String> {
            let mut bytes = vec![0; n];
            p.reader.read_exact(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Ran { code: i32::try_from(code)?, out: take(out)?, err: take(err)? })
    }

    /// Runs a script that must succeed; its standard output.
    pub fn run(&mut self, script: &str, limit: Duration) -> Result<String> {
        let ran = self.run_on(0, script, limit)?;
        ran.must(script)
    }
}

impl Ran {
    /// The standard output when the script succeeded; else an error that says all.
    pub fn must(self, script: &str) -> Result<String> {
        if self.code != 0 {
            return Err(format!("exit code {} from the guest\n$ {script}\n{}{}", self.code, self.out, self.err).into());
        }
        Ok(self.out)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn arguments(image: &Image, folder: &Path) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| list.extend(words.iter().map(|w| (*w).to_owned()));
    // KVM is not to be had on every machine that runs these tests; emulation is, and it is the same everywhere.
    add(&["-accel", "tcg,thread=multi", "-cpu", "max", "-M", "q35", "-smp", "2", "-m", "1536"]);
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    add(&["-kernel", &image.kernel.display().to_string(), "-initrd", &image.initramfs.display().to_string()]);
    add(&["-serial", &format!("file:{}/console.log", folder.display())]);
    add(&["-device", "virtio-serial-pci"]);
    for k in 0..PORTS {
        add(&["-chardev", &format!("socket,id=c{k},path={}/port{k},server=on,wait=off", folder.display())]);
        add(&["-device", &format!("virtserialport,chardev=c{k},name=guest.{k}")]);
    }
    add(&["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]);
    add(&["-netdev", &format!("user,id=n0,host={HOST_ADDRESS}"), "-device", "virtio-net-pci,netdev=n0,romfile="]);
    // The machine's own root, read-only: for programs that are too large for the initramfs.
    add(&["-fsdev", "local,id=root,path=/,security_model=none,multidevs=remap,readonly=on"]);
    add(&["-device", "virtio-9p-pci,fsdev=root,mount_tag=host"]);
    let words = [
        "console=ttyS0 panic=-1 quiet loglevel=4 printk.time=1 no_timer_check tsc=reliable",
        &tsc_frequency().unwrap_or_default(),
        "nowatchdog rcupdate.rcu_cpu_stall_suppress=1 mitigations=off random.trust_cpu=on apparmor=0 selinux=0 audit=0",
        "cryptomgr.notests initcall_blacklist=init_encrypted,crypto_kdf108_init,jent_mod_init,selinux_nf_ip_init",
    ];
    add(&["-append", &words.join(" ")]);
    list
}

/// The emulated time-stamp counter runs at the machine's rate. Said in advance, because a guest that measures it on a
/// busy machine gets it wrong, and then all its timeouts fire early.
fn tsc_frequency() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    if !info.contains("constant_tsc") {
        return None;
    }
    let mhz: f64 = info.lines().find(|l| l.starts_with("cpu MHz"))?.split(':').nth(1)?.trim().parse().ok()?;
    Some(format!("tsc_early_khz={}", (mhz * 1000.0) as u64))
}
