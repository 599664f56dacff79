//! Over one connection of tcp: `rounds`, a byte there and back, prints how many a second; `stream` sends as fast as it
//! can, prints bytes a second.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Instant;

use crate::serve::{ECHO, SINK};
use crate::{Args, Result};

pub fn rounds(args: &Args) -> Result<()> {
    let mut server = connect(args, ECHO)?;
    let (begun, most) = (Instant::now(), args.seconds()?);
    let (mut rounds, mut byte) = (0_u64, [1]);
    while begun.elapsed() < most {
        server.write_all(&byte)?;
        server.read_exact(&mut byte)?;
        rounds += 1;
    }
    println!("{:.0}", rounds as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}

pub fn stream(args: &Args) -> Result<()> {
    let mut server = connect(args, SINK)?;
    let (begun, most) = (Instant::now(), args.seconds()?);
    let (mut bytes, buffer) = (0_u64, vec![0; 256 << 10]);
    while begun.elapsed() < most {
        server.write_all(&buffer)?;
        bytes += buffer.len() as u64;
    }
    println!("{:.0}", bytes as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}

fn connect(args: &Args, how: u8) -> Result<TcpStream> {
    let mut server = TcpStream::connect(args.address()?)?;
    server.set_nodelay(true)?;
    server.write_all(&[how])?;
    Ok(server)
}
