//! Over udp: `echo`, one packet there and back after the other, prints what one took (median, 99th percentile, worst,
//! microseconds); `rate`, sixteen under way, prints how many come back in a second.
//!
//! The kernel looks up where a flow leads to when its first packet comes. With `--fresh 1` each is the first of one.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::{Args, Result};

/// Without an answer for so long, one is lost.
const PATIENCE: Duration = Duration::from_millis(500);
/// As many as that a second may be lost: a busy machine drops some.
const LOST: u32 = 20;
const WINDOW: u32 = 16;

pub fn echo(args: &Args) -> Result<()> {
    let server = args.address()?;
    let fresh = args.option("fresh").is_some();
    let mut took = Vec::new();
    let mut socket = connect(server)?;
    let (mut lost, mut buffer) = (0, [0; 64]);
    // The first one finds neighbours.
    for number in 0..=args.number("count")? {
        if fresh {
            socket = connect(server)?;
        }
        let begun = Instant::now();
        socket.send(&number.to_be_bytes())?;
        match socket.recv(&mut buffer) {
            Ok(_) if number > 0 => took.push(begun.elapsed()),
            Ok(_) => {}
            Err(error) => {
                lost += 1;
                if lost > LOST {
                    return Err(format!("{server} answers no more: {error}").into());
                }
            }
        }
    }
    crate::tell(took);
    Ok(())
}

pub fn rate(args: &Args) -> Result<()> {
    let server = args.address()?;
    let socket = connect(server)?;
    let (begun, most) = (Instant::now(), args.seconds()?);
    let (mut answers, mut silences, mut buffer) = (0_u64, 0, [0; 64]);
    for _ in 0..WINDOW {
        socket.send(&[1; 16])?;
    }
    while begun.elapsed() < most {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                answers += 1;
                socket.send(&[1; 16])?;
            }
            Err(error) => {
                silences += 1;
                if silences > LOST {
                    return Err(format!("{server} answers no more: {error}").into());
                }
                for _ in 0..WINDOW {
                    socket.send(&[1; 16])?;
                }
            }
        }
    }
    println!("{:.0}", answers as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}

fn connect(server: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}
