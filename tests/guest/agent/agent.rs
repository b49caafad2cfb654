//! Runs in the guest: takes scripts from virtio-serial ports and answers with their exit code and output.
//!
//! Request: `TIMEOUT_MS LENGTH\n` and the script. Answer: `CODE OUT ERR\n` and both outputs. One script at a time on
//! each port. Output goes through files, so that a daemon which a script leaves behind cannot block the port.
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn main() {
    let ports = fs::read_dir("/sys/class/virtio-ports").expect("the module virtio_console is loaded");
    let threads: Vec<_> = ports
        .flatten()
        .filter(|p| fs::read_to_string(p.path().join("name")).is_ok_and(|n| n.starts_with("guest.")))
        .map(|p| {
            let name = p.file_name().into_string().expect("a port's name is ASCII");
            std::thread::spawn(move || serve(&name).expect("the port works"))
        })
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
}

fn serve(port: &str) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(format!("/dev/{port}"))?;
    let mut answers = file.try_clone()?;
    let mut requests = BufReader::new(file);
    answers.write_all(b"READY\n")?;
    loop {
        let mut head = String::new();
        if requests.read_line(&mut head)? == 0 {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        let mut words = head.split_whitespace().map(|w| w.parse::<u64>().expect("numbers in the head"));
        let (timeout_ms, length) = (words.next().expect("a timeout"), words.next().expect("a length"));
        let mut script = vec![0; length as usize];
        requests.read_exact(&mut script)?;
        let (out, err) = (format!("/run/{port}.out"), format!("/run/{port}.err"));
        let child = Command::new("/bin/sh")
            .arg("-c")
            .arg(String::from_utf8_lossy(&script).as_ref())
            .stdin(Stdio::null())
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .process_group(0)
            .spawn()?;
        let code = wait(child, Duration::from_millis(timeout_ms))?;
        let (out, err) = (fs::read(&out)?, fs::read(&err)?);
        let mut answer = format!("{code} {} {}\n", out.len(), err.len()).into_bytes();
        answer.extend(out);
        answer.extend(err);
        answers.write_all(&answer)?;
    }
}

/// The exit code; 128 + n after signal n; 124 when it took too long and was killed.
fn wait(mut child: Child, limit: Duration) -> io::Result<i32> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
        }
        if begin.elapsed() > limit {
            let _ = Command::new("/bin/kill").args(["-9", &format!("-{}", child.id())]).status();
            // A process that waits for a device cannot be killed; do not wait for it.
            return Ok(124);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
