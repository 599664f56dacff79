//! `serve`: what a server can do at best on this machine. Every request is answered with the same file, by
//! sendfile(2) (a small one with its head, in one write), a thread a connection.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use rustix::fs::sendfile;

use crate::{Args, Result};

/// Largest file that goes with the head, bytes.
const SMALL: u64 = 64 * 1024;

pub fn run(args: &Args) -> Result<()> {
    let path = args.word("a file")?;
    let size = std::fs::metadata(path)?.len();
    let mut head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n").into_bytes();
    let small = size <= SMALL;
    if small {
        head.extend(std::fs::read(path)?);
    }
    let (head, file) = (Arc::new(head), Arc::new(File::open(path)?));
    let listener = TcpListener::bind(args.address)?;
    loop {
        let (stream, _) = listener.accept()?;
        let (head, file) = (Arc::clone(&head), Arc::clone(&file));
        // Who hangs up is done.
        thread::spawn(move || drop(answer(&stream, &head, (!small).then_some((&file, size)))));
    }
}

fn answer(mut stream: &TcpStream, head: &[u8], rest: Option<(&File, u64)>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut request = vec![0; 4096];
    let mut have = 0;
    loop {
        match stream.read(&mut request[have..])? {
            0 => return Ok(()),
            count => have += count,
        }
        if !request[..have].ends_with(b"\r\n\r\n") {
            continue;
        }
        have = 0;
        stream.write_all(head)?;
        if let Some((file, size)) = rest {
            let mut offset = 0;
            while offset < size {
                sendfile(
                    stream,
                    file,
                    Some(&mut offset),
                    (size as usize).min(1 << 30),
                )?;
            }
        }
    }
}
