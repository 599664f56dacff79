//! The demonstration application: one page, one log line a request, gone at the first SIGTERM.

mod page;
mod request;

use std::{
    io::{Error, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::{SigSet, Signal};
use page::Facts;
use request::Request;

/// Requests at a time. A client that sends nothing holds one of them for [`PATIENCE`].
const WORKERS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);
/// A worker needs little: the image should run in a few hundred kilobytes.
const STACK: usize = 64 * 1024;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("Error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    // Blocked before any thread exists, so that all inherit it and `wait` below gets the signal. The
    // kernel throws away what pid 1 of a namespace neither handles nor blocks (pid_namespaces(7)).
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    stop.add(Signal::SIGINT);
    stop.thread_block()
        .map_err(|e| format!("cannot block signals: {e}"))?;

    let port = port(std::env::var("PORT").ok().as_deref())?;
    let listener = listen(port).map_err(|e| format!("cannot listen on port {port}: {e}"))?;
    let begun = Instant::now();
    say(&format!("listening on port {port}"));
    for _ in 0..WORKERS {
        let listener = listener
            .try_clone()
            .map_err(|e| format!("cannot share the listener: {e}"))?;
        thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || work(&listener, begun))
            .map_err(|e| format!("cannot start a worker: {e}"))?;
    }
    let signal = stop
        .wait()
        .map_err(|e| format!("cannot wait for signals: {e}"))?;
    say(&format!("{signal}: bye"));
    Ok(())
}

/// `$PORT`, or 80.
fn port(set: Option<&str>) -> Result<u16, String> {
    match set {
        None | Some("") => Ok(80),
        Some(text) => text
            .parse()
            .map_err(|_| format!("PORT={text:?} is not a port: give a number up to 65535")),
    }
}

/// All addresses; only IPv4's where the network namespace has no IPv6.
fn listen(port: u16) -> Result<TcpListener, Error> {
    TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        .or_else(|_| TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))
}

fn work(listener: &TcpListener, begun: Instant) {
    loop {
        match listener.accept() {
            Ok((stream, client)) => {
                // A client that goes away is its own affair, and the next one is waiting.
                if let Err(e) = answer(stream, client, begun) {
                    say(&format!("{} - {e}", client.ip().to_canonical()));
                }
            }
            // Out of descriptors, most likely: trying on at once would only burn the processor.
            Err(e) => {
                say(&format!("cannot accept: {e}"));
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn answer(mut stream: TcpStream, client: SocketAddr, begun: Instant) -> Result<(), Error> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = request::head(&mut stream)?;
    let client = client.ip().to_canonical();
    let (status, body, with_body) = match Request::parse(&head) {
        Some(request) if matches!(request.method, "GET" | "HEAD") => {
            let facts = Facts {
                host: nix::unistd::gethostname()?.to_string_lossy().into_owned(),
                target: request.target.to_owned(),
                client: client.to_string(),
                uptime: begun.elapsed(),
            };
            ("200 OK", page::html(&facts), request.method == "GET")
        }
        Some(_) => (
            "405 Method Not Allowed\r\nAllow: GET, HEAD",
            "Only GET and HEAD are answered here.\n".to_owned(),
            true,
        ),
        None => (
            "400 Bad Request",
            "That was no HTTP request.\n".to_owned(),
            true,
        ),
    };
    let kind = if status.starts_with("200") {
        "text/html"
    } else {
        "text/plain"
    };
    let mut response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if with_body {
        response.push_str(&body);
    }
    // Logged before it is sent: who has the page finds the line.
    say(&format!(
        "{client} \"{}\" {}",
        request::printable(&head),
        &status[..3]
    ));
    stream.write_all(response.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    drain(&mut stream);
    Ok(())
}

/// Reads what the client still sends: closing with unread bytes would reset the connection, and the
/// answer could be lost with it.
fn drain(stream: &mut TcpStream) {
    let mut rest = [0; 1024];
    // Bounded, and an error ends it as well as the end does: the answer is out already.
    for _ in 0..64 {
        if stream.read(&mut rest).unwrap_or(0) == 0 {
            break;
        }
    }
}

/// One line of log. Nobody reading it is no reason to stop serving.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_80_or_what_the_environment_says() {
        assert_eq!(port(None), Ok(80));
        assert_eq!(port(Some("")), Ok(80));
        assert_eq!(port(Some("8081")), Ok(8081));
        assert!(port(Some("http")).unwrap_err().contains("\"http\""));
        assert!(port(Some("65536")).is_err());
    }

    #[test]
    fn a_client_gets_the_page() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client
            .write_all(b"GET /a<b> HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let (stream, address) = listener.accept().unwrap();
        answer(stream, address, Instant::now()).unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{head}"
        );
        assert!(body.contains("/a&lt;b&gt;"), "{body}");
    }
}
