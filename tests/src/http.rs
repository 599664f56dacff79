//! A little HTTP server on a site, for upstreams that no honest program would play.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Site;

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// 200 and the like.
    pub status: u16,
    /// Headers besides Content-Length.
    pub headers: Vec<(&'static str, String)>,
    /// Content; none is sent for HEAD.
    pub body: Vec<u8>,
    /// What Content-Length says when that is not the body's.
    pub length: Option<u64>,
}

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// GET and the like.
    pub method: String,
    /// With the query.
    pub path: String,
    /// Where the range that is wanted begins; 0 without one.
    pub offset: u64,
    /// What the Authorization header says; "" = there is none.
    pub authorization: String,
    /// A small body; a larger one is left unread.
    pub body: Vec<u8>,
}

/// Largest body that is read for a handler, bytes.
const MAX_BODY: usize = 1 << 20;

type Handler = dyn Fn(&Request, &TcpStream) + Send + Sync;

/// Answers until it is dropped.
pub struct Server {
    /// Where it listens, on its site.
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    namespace: std::path::PathBuf,
}

impl Server {
    /// Starts a server; `handler` is given method and path.
    pub fn start(
        site: &Site,
        handler: impl Fn(&str, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_raw(site, move |request, out| {
            handler(&request.method, &request.path).send(request, out);
        })
    }

    /// Starts a server whose handler writes its answers itself, at its own pace.
    pub fn start_raw(
        site: &Site,
        handler: impl Fn(&Request, &TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let namespace = site.namespace_path();
        let listener = within(&namespace, || TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let over = Arc::new(AtomicBool::new(false));
        let (seen, end) = (Arc::clone(&requests), Arc::clone(&over));
        let handler: Arc<Handler> = Arc::new(handler);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if end.load(Ordering::SeqCst) {
                    break;
                }
                let (seen, handler) = (Arc::clone(&seen), Arc::clone(&handler));
                thread::spawn(move || serve(stream, &seen, &*handler));
            }
        });
        Self {
            address,
            requests,
            over,
            namespace,
        }
    }

    /// What was asked so far: `GET /v2/...`.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the listener; it has gone already when that fails.
        let address = self.address;
        within(&self.namespace, || drop(TcpStream::connect(address)));
    }
}

/// A connection to a server on a site that may not be there.
pub fn connect(site: &Site, address: SocketAddr) -> std::io::Result<TcpStream> {
    within(&site.namespace_path(), || TcpStream::connect(address))
}

/// A listener of a site for what is no HTTP.
pub fn listen(site: &Site, address: &str) -> TcpListener {
    within(&site.namespace_path(), || {
        TcpListener::bind(address).unwrap()
    })
}

/// Does something in a network namespace, on a thread that ends afterwards.
fn within<T: Send>(namespace: &std::path::Path, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let namespace = std::fs::File::open(namespace).unwrap();
            move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&namespace),
                Some(LinkNameSpaceType::Network),
            )
            .unwrap();
            work()
        });
        inside.join().unwrap()
    })
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<String>>, handler: &Handler) {
    let mut reader = BufReader::new(&stream);
    let mut first = String::new();
    if reader.read_line(&mut first).is_err() {
        return;
    }
    let (mut offset, mut length) = (0, 0);
    let mut authorization = String::new();
    loop {
        let mut header = String::new();
        match reader.read_line(&mut header) {
            Ok(n) if n > 0 && header != "\r\n" => {}
            _ => break,
        }
        if let Some((_, value)) = header
            .split_once(':')
            .filter(|(name, _)| name.eq_ignore_ascii_case("authorization"))
        {
            value.trim().clone_into(&mut authorization);
        }
        let header = header.to_ascii_lowercase();
        if let Some(range) = header.strip_prefix("range: bytes=") {
            offset = range
                .split('-')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
        }
        if let Some(bytes) = header.strip_prefix("content-length:") {
            length = bytes.trim().parse().unwrap_or(0);
        }
    }
    let mut body = Vec::new();
    if length <= MAX_BODY {
        body.resize(length, 0);
        if reader.read_exact(&mut body).is_err() {
            return;
        }
    }
    let mut words = first.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return;
    };
    seen.lock().unwrap().push(format!("{method} {path}"));
    let request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        offset,
        authorization,
        body,
    };
    handler(&request, &stream);
}

impl Reply {
    /// Writes it as the answer to a request.
    pub fn send(&self, request: &Request, mut out: &TcpStream) {
        let length = self.length.unwrap_or(self.body.len() as u64);
        let mut head = format!(
            "HTTP/1.1 {} X\r\nConnection: close\r\nContent-Length: {length}\r\n",
            self.status
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        // A client that goes away is its own affair.
        let _ = out.write_all(head.as_bytes());
        if request.method != "HEAD" {
            let _ = out.write_all(&self.body);
        }
    }
}
