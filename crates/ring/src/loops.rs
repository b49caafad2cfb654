//! Loop devices: a file as a block device of the kernel.
//!
//! The `unsafe` here is four `ioctl`s: each gets either a plain number or a structure that outlives the call, laid out as
//! `linux/loop.h` has it (the size is checked below).

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

const LOOP_CLR_FD: Opcode = 0x4C01;
const LOOP_SET_CAPACITY: Opcode = 0x4C07;
const LOOP_CONFIGURE: Opcode = 0x4C0A;
const LOOP_CTL_GET_FREE: Opcode = 0x4C82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// How often another process may be faster at the free device that we were told of.
const RACES: usize = 64;

/// `struct loop_config` with the `struct loop_info64` in it.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}
const _: () = assert!(size_of::<Config>() == 304);

/// An `ioctl` whose answer is a number and whose argument is null.
struct Plain<const OPCODE: Opcode>;

// SAFETY: the opcodes that this is used with take no argument (null is ignored) and answer with a number.
unsafe impl<const OPCODE: Opcode> Ioctl for Plain<OPCODE> {
    type Output = IoctlOutput;
    const IS_MUTATING: bool = false;
    fn opcode(&self) -> Opcode {
        OPCODE
    }
    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }
    unsafe fn output_from_ptr(answer: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(answer)
    }
}

/// `LOOP_CONFIGURE`.
struct Configure<'a>(&'a mut Config);

// SAFETY: the kernel reads one `struct loop_config` at the pointer, which is borrowed for the call.
unsafe impl Ioctl for Configure<'_> {
    type Output = ();
    const IS_MUTATING: bool = false;
    fn opcode(&self) -> Opcode {
        LOOP_CONFIGURE
    }
    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self.0).cast()
    }
    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).open(path)
}

/// Makes a loop device of a file, with direct I/O and logical blocks of `block_size` bytes, and returns its path.
pub fn attach(file: &File, block_size: u32, read_only: bool) -> io::Result<PathBuf> {
    let control = open(Path::new("/dev/loop-control"))?;
    let fd = u32::try_from(file.as_raw_fd()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let flags = LO_FLAGS_DIRECT_IO | if read_only { LO_FLAGS_READ_ONLY } else { 0 };
    for _ in 0..RACES {
        // SAFETY: `Plain` says what is needed of the opcode.
        let number = unsafe { ioctl(&control, Plain::<LOOP_CTL_GET_FREE>) }?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open(&path)?;
        let mut config = Config {
            fd,
            block_size,
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
            reserved: [0; 8],
        };
        // SAFETY: `Configure` says what is needed of the opcode.
        match unsafe { ioctl(&device, Configure(&mut config)) } {
            Ok(()) => return Ok(path),
            // Somebody else took it.
            Err(Errno::BUSY) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "others take every free loop device first"))
}

/// Takes a loop device apart. One that is still open is taken apart when its last user closes it.
pub fn detach(device: &Path) -> io::Result<()> {
    // SAFETY: `Plain` says what is needed of the opcode.
    match unsafe { ioctl(open(device)?, Plain::<LOOP_CLR_FD>) } {
        // It is no more.
        Ok(_) | Err(Errno::NXIO) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Tells a loop device that its file has another size.
pub fn resize(device: &Path) -> io::Result<()> {
    // SAFETY: `Plain` says what is needed of the opcode.
    unsafe { ioctl(open(device)?, Plain::<LOOP_SET_CAPACITY>) }?;
    Ok(())
}

/// The loop devices of a file, by the path under which it was opened.
pub fn of_file(file: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = std::fs::read_to_string(entry.path().join("loop/backing_file"));
        // The kernel marks a file that cannot be reached any more.
        if backing.is_ok_and(|b| Path::new(b.trim_end().trim_end_matches(" (deleted)")) == file) {
            found.push(Path::new("/dev").join(entry.file_name()));
        }
    }
    found
}
