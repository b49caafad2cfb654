//! The guest's kernel and initramfs, made from Debian's packages and kept under `target/guest`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// The kernel to boot; the newest one that Debian 12 offers, because 6.1 lacks ublk and NVMe authentication.
const KERNEL_PACKAGE: &str = "linux-image-6.12-amd64";

/// Kernel modules that a suite may want; what they depend on comes along.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "9p",
    "9pnet_virtio",
    "overlay",
    "configfs",
    "nvme",
    "nvme-tcp",
    "iscsi_tcp",
    "sd_mod",
    "ext4",
    "xfs",
    "crc32c_generic",
    "crc32c-intel",
    "libcrc32c",
];

/// Programs that the guest carries in its initramfs, with the libraries that they need.
const PROGRAMS: &[&str] = &[
    "/usr/sbin/nvme",
    "/usr/sbin/iscsistart",
    "/usr/sbin/mkfs.ext4",
    "/usr/sbin/e2fsck",
    "/usr/sbin/mkfs.xfs",
    "/usr/sbin/xfs_repair",
    "/usr/sbin/blkid",
    "/usr/sbin/blkdiscard",
    "/usr/bin/kmod",
    "/usr/bin/sha256sum",
];

/// A fixed, matching pair: Linux 6.12 refuses one host NQN with two host ids.
const HOST_ID: &str = "11111111-2222-4333-8444-555555555555";

/// What QEMU boots.
pub struct Image {
    /// The uncompressed kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
}

impl Image {
    /// Makes the image, or takes the one that was made before from the same kernel and the same harness.
    pub fn prepare(cache: &Path) -> Result<Image> {
        fs::create_dir_all(cache)?;
        let cache = &cache.canonicalize()?;
        let package = kernel_package()?;
        let unpacked = cache.join(&package);
        if !unpacked.join("complete").exists() {
            download_kernel(cache, &package, &unpacked)?;
        }
        let kernel = unpacked.join("vmlinux");
        let initramfs = unpacked.join("initramfs.cpio");
        // The harness itself is part of the image: rebuild when this program is newer.
        let newer =
            |a: &Path, b: &Path| Some(fs::metadata(a).ok()?.modified().ok()? > fs::metadata(b).ok()?.modified().ok()?);
        if newer(&initramfs, &std::env::current_exe()?) != Some(true) {
            build_initramfs(&unpacked, &initramfs)?;
        }
        Ok(Image { kernel, initramfs })
    }
}

/// Runs a program to its end; its standard output when it succeeded.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(|e| format!("cannot run {:?}: {e}", command.get_program()))?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn kernel_package() -> Result<String> {
    let depends = run(Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]))?;
    let name =
        depends.lines().filter_map(|l| l.trim().strip_prefix("Depends: ")).find(|n| n.starts_with("linux-image-"));
    Ok(name.ok_or_else(|| format!("the package lists do not name {KERNEL_PACKAGE}; run apt-get update"))?.to_owned())
}

fn download_kernel(cache: &Path, package: &str, unpacked: &Path) -> Result<()> {
    println!("guest: downloading {package}");
    run(Command::new("apt-get").args(["download", "-q", package]).current_dir(cache))?;
    let prefix = format!("{package}_");
    let mut files = fs::read_dir(cache)?.filter_map(|f| f.ok()).map(|f| f.path());
    let deb = files.find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)));
    let deb = deb.ok_or("apt-get download left no file")?;
    fs::create_dir_all(unpacked)?;
    let unpack = format!(
        "dpkg-deb --fsys-tarfile '{}' | tar -x -C '{}' ./boot ./lib/modules",
        deb.display(),
        unpacked.display()
    );
    run(Command::new("sh").args(["-ec", &unpack]))?;
    fs::remove_file(&deb)?;
    let mut boot = fs::read_dir(unpacked.join("boot"))?.filter_map(|f| f.ok()).map(|f| f.path());
    let bzimage = boot.find(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz")));
    carve_vmlinux(&bzimage.ok_or("the package has no vmlinuz")?, &unpacked.join("vmlinux"))?;
    fs::write(unpacked.join("complete"), "")?;
    Ok(())
}

/// Takes the ELF kernel out of a bzImage, so that QEMU need not run the decompressor under emulation.
/// The fields are those of the Linux/x86 boot protocol: setup_sects, payload_offset, payload_length.
fn carve_vmlinux(bzimage: &Path, out: &Path) -> Result<()> {
    let image = fs::read(bzimage)?;
    let u32_at = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).ok_or("a short bzImage")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return Err(format!("{} is not a bzImage", bzimage.display()).into());
    }
    let setup_sectors = if image[0x1f1] == 0 { 4 } else { usize::from(image[0x1f1]) };
    let start = (setup_sectors + 1) * 512 + u32_at(0x248)?;
    let payload = image.get(start..start + u32_at(0x24c)?).ok_or("the payload lies outside the bzImage")?;
    let tool: &[&str] = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => &["zstd", "-dcq"],
        [0xfd, b'7', b'z', ..] => &["xz", "-dc", "--single-stream"],
        [0x1f, 0x8b, ..] => &["gzip", "-dc"],
        _ => return Err("the kernel is packed in an unknown way".into()),
    };
    let packed = out.with_extension("packed");
    fs::write(&packed, payload)?;
    // The payload ends with the unpacked size, which some tools take for trailing garbage: the ELF magic decides.
    let output = Command::new(tool[0]).args(&tool[1..]).arg(&packed).output()?;
    fs::remove_file(&packed)?;
    if !output.stdout.starts_with(b"\x7fELF") {
        return Err(format!("{} gave no ELF kernel: {}", tool[0], String::from_utf8_lossy(&output.stderr)).into());
    }
    fs::write(out, output.stdout)?;
    Ok(())
}

fn build_initramfs(unpacked: &Path, out: &Path) -> Result<()> {
    println!("guest: building the initramfs");
    let root = unpacked.join("root");
    let _ = fs::remove_dir_all(&root);
    for dir in [
        "bin",
        "sbin",
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "mnt",
        "etc/nvme",
        "usr/bin",
        "usr/sbin",
        "host",
        "full",
        "lib/modules",
    ] {
        fs::create_dir_all(root.join(dir))?;
    }
    symlink("/run", root.join("var"))?;
    copy_modules(unpacked, &root)?;
    fs::copy("/usr/bin/busybox", root.join("bin/busybox"))?;
    for program in PROGRAMS {
        copy_program(Path::new(program), &root)?;
    }
    for name in ["modprobe", "insmod", "lsmod"] {
        symlink("/usr/bin/kmod", root.join("sbin").join(name))?;
    }
    build_agent(&root.join("sbin/agent"))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    fs::write(root.join("etc/nvme/hostid"), format!("{HOST_ID}\n"))?;
    fs::write(root.join("etc/nvme/hostnqn"), format!("nqn.2014-08.org.nvmexpress:uuid:{HOST_ID}\n"))?;
    fs::write(root.join("init"), include_str!("../agent/init"))?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let pack = format!("find . | LC_ALL=C sort | cpio -o -H newc --quiet > '{}'", out.display());
    run(Command::new("sh").args(["-ec", &pack]).current_dir(&root))?;
    fs::remove_dir_all(&root)?;
    Ok(())
}

fn build_agent(out: &Path) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("agent/agent.rs");
    // Static, and for any processor: the emulated one has no AVX-512.
    let flags = ["--edition=2024", "-O", "-Ctarget-feature=+crt-static", "-Ctarget-cpu=x86-64"];
    run(Command::new("rustc").args(flags).arg("-o").arg(out).arg(source)).map(|_| ())
}

/// Copies the modules and all that they need, unpacked, and indexes them.
fn copy_modules(unpacked: &Path, root: &Path) -> Result<()> {
    let version = fs::read_dir(unpacked.join("lib/modules"))?.next().ok_or("the package has no modules")??.file_name();
    let from = unpacked.join("lib/modules").join(&version);
    let to = root.join("lib/modules").join(&version);
    fs::create_dir_all(&to)?;
    if !from.join("modules.dep").exists() {
        run(Command::new("depmod").arg("-b").arg(unpacked).arg(&version))?;
    }
    let dependencies = fs::read_to_string(from.join("modules.dep"))?;
    let plain =
        |path: &str| path.rsplit('/').next().unwrap_or(path).split(".ko").next().unwrap_or(path).replace('-', "_");
    let mut wanted: Vec<String> = MODULES.iter().map(|m| m.replace('-', "_")).collect();
    let mut copied = Vec::new();
    while let Some(name) = wanted.pop() {
        let line = dependencies.lines().filter_map(|l| l.split_once(':')).find(|(path, _)| plain(path) == name);
        // A module that is not listed is built in.
        let Some((path, needs)) = line else { continue };
        if copied.contains(&name) {
            continue;
        }
        wanted.extend(needs.split_whitespace().map(plain));
        let target = to.join(path.trim_end_matches(".xz").trim_end_matches(".zst"));
        fs::create_dir_all(target.parent().expect("a module lies in a folder"))?;
        let source = from.join(path);
        match path.rsplit('.').next() {
            Some("xz") => fs::write(&target, unpack("xz", &source)?)?,
            Some("zst") => fs::write(&target, unpack("zstd", &source)?)?,
            _ => fs::copy(&source, &target).map(|_| ())?,
        }
        copied.push(name);
    }
    for index in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        fs::copy(from.join(index), to.join(index))?;
    }
    run(Command::new("depmod").arg("-b").arg(root).arg(&version)).map(|_| ())
}

fn unpack(tool: &str, file: &Path) -> Result<Vec<u8>> {
    let output = Command::new(tool).args(["-dcq"]).arg(file).output()?;
    if !output.status.success() {
        return Err(format!("{tool} cannot unpack {}", file.display()).into());
    }
    Ok(output.stdout)
}

fn copy_program(program: &Path, root: &Path) -> Result<()> {
    let place = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let copy = |path: &Path| -> Result<()> {
        fs::create_dir_all(place(path).parent().expect("an absolute path"))?;
        fs::copy(path, place(path)).map_err(|e| format!("{}: {e}; is its package installed?", path.display()))?;
        Ok(())
    };
    copy(program)?;
    let libraries = run(Command::new("ldd").arg(program)).unwrap_or_default();
    for library in libraries.split_whitespace().filter(|w| w.starts_with('/')) {
        if !place(Path::new(library)).exists() {
            copy(Path::new(library))?;
        }
    }
    Ok(())
}
