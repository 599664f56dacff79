//! `dns`: asks a resolver for addresses of one name, sixteen questions under way. Prints positive answers a second, and
//! how many questions had another answer or none.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use crate::{Args, Result};

const WINDOW: u16 = 16;
/// Questions without an answer for so long are asked anew.
const PATIENCE: Duration = Duration::from_secs(1);

pub fn run(args: &Args) -> Result<()> {
    let resolver = args.address()?;
    let name = args.text("name")?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(resolver)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // Names that nobody was asked for by an earlier run.
    let mut number = u64::from(std::process::id()) << 32;
    let mut ask = |id: u16| {
        number += 1;
        let name = name.replace('#', &number.to_string());
        socket.send(&question(id, &name))
    };
    for id in 0..WINDOW {
        ask(id)?;
    }
    let (begun, most) = (Instant::now(), args.seconds()?);
    let (mut answers, mut good, mut bad) = (0_u64, 0_u64, 0_u64);
    let (mut silent, mut buffer) = (0, [0; 1500]);
    while answers == 0 || begun.elapsed() < most {
        match socket.recv(&mut buffer) {
            Ok(length) if length >= 12 => {
                answers += 1;
                match is_positive(&buffer) {
                    true => good += 1,
                    false => bad += 1,
                }
                ask(u16::from_be_bytes([buffer[0], buffer[1]]))?;
            }
            Ok(length) => return Err(format!("{resolver} sent {length} bytes").into()),
            Err(error) => {
                silent += 1;
                bad += u64::from(WINDOW);
                if silent > 3 {
                    return Err(format!("{resolver} does not answer for {name}: {error}").into());
                }
                for id in 0..WINDOW {
                    ask(id)?;
                }
            }
        }
    }
    if good == 0 {
        return Err(format!("{resolver} does not know {name}").into());
    }
    println!("{:.0}\t{bad}", good as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}

/// For an address of IPv4, with recursion (RFC 1035, 4.1).
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// An answer, no error, with at least one record.
fn is_positive(message: &[u8]) -> bool {
    message[2] & 0x80 != 0 && message[3] & 0x0f == 0 && (message[6], message[7]) != (0, 0)
}
