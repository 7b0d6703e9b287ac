//! A link on which a round trip takes a fixed time. Needs its own network namespace.
//!
//! Only this side, `HERE`, exists. Each packet to `THERE` comes back after the delay, with its addresses
//! swapped, so a server on this side serves the address `THERE`. The swap does not change the checksums
//! of IP and TCP. (A kernel may be built without a delay of its own.)

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::{Duration, Instant};

use crate::measure::output;
use crate::Result;

pub const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const THERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// One way, so that a round trip takes 50 ms.
const DELAY: Duration = Duration::from_millis(25);

const NAME: &str = "delayed";

/// Opens the device that creates links.
pub fn device() -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).open("/dev/net/tun")
}

/// Creates the link, which exists until this process ends.
pub fn start() -> Result<()> {
    let device = Arc::new(attach(device()?)?);
    for line in [
        format!("address add {HERE}/24 dev {NAME}"),
        format!("link set {NAME} up"),
        "link set lo up".into(),
    ] {
        output(Command::new("ip").args(line.split(' ')))?;
    }
    let (sender, delayed) = mpsc::channel();
    let far = Arc::clone(&device);
    thread::spawn(move || -> io::Result<()> {
        let mut packet = [0; 2048];
        loop {
            let length = (&*far).read(&mut packet)?;
            let due = Instant::now() + DELAY;
            if packet[0] >> 4 == 4 {
                // IPv4: the source, then the destination.
                packet[12..20].rotate_left(4);
                let _ = sender.send((due, packet[..length].to_vec()));
            }
        }
    });
    thread::spawn(move || -> io::Result<()> {
        for (due, packet) in delayed {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            (&*device).write_all(&packet)?;
        }
        Ok(())
    });
    Ok(())
}

/// Creates an interface. Its packets are read from this file and written to it.
fn attach(device: File) -> io::Result<File> {
    // SAFETY: the structure has only numbers.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in interface.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = from as libc::c_char;
    }
    interface.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the file is open, and this request takes a structure of this type.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &interface) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(device)
}
