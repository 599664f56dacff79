//! Between registries and their S3 server: passes requests on, or answers them itself, as a rule says.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    response::Response,
};
use reqwest::Client;
use tokio::sync::Semaphore;

use crate::{server::Server, support::client};

/// What comes of a request.
#[derive(Clone, Copy)]
pub enum Act {
    Pass,
    /// It is passed on after a while.
    Late(Duration),
    /// It is passed on when [`Between::let_go`] says so.
    Held,
    /// It is answered with this status and this error code of S3.
    Refuse(u16, &'static str),
}

type Rule = Box<dyn Fn(&Method, &str) -> Act + Send>;

/// See the module's page.
pub struct Between {
    pub address: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    rule: Mutex<Rule>,
    noted: Mutex<Vec<String>>,
    go: Semaphore,
    client: Client,
    server: SocketAddr,
    /// Seconds that the server's clock seems to be ahead.
    ahead: AtomicI64,
}

impl Between {
    /// One that passes everything on.
    pub async fn start(server: &Server) -> Self {
        let inner = Arc::new(Inner {
            rule: Mutex::new(Box::new(|_, _| Act::Pass)),
            noted: Mutex::default(),
            go: Semaphore::new(0),
            client: client(),
            server: ([127, 0, 0, 1], server.port).into(),
            ahead: AtomicI64::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(pass).with_state(Arc::clone(&inner));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, inner }
    }

    /// From now on.
    pub fn rule(&self, rule: impl Fn(&Method, &str) -> Act + Send + 'static) {
        *self.inner.rule.lock().unwrap() = Box::new(rule);
    }

    /// From now on the server's clock seems to be so many seconds ahead.
    pub fn shift(&self, seconds: i64) {
        self.inner.ahead.store(seconds, Ordering::SeqCst);
    }

    /// What is held goes on, and is held no more.
    pub fn let_go(&self) {
        self.inner.go.close();
    }

    /// What was refused, or is late.
    pub fn noted(&self) -> Vec<String> {
        self.inner.noted.lock().unwrap().clone()
    }

    /// `[store]` by this way.
    pub fn text(&self, server: &Server, prefix: &str) -> String {
        let text = server.text_at(prefix, &format!("http://{}", self.address));
        format!("allow_http = true\n{text}")
    }
}

async fn pass(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().unwrap().as_str();
    let act = (inner.rule.lock().unwrap())(&head.method, path);
    if !matches!(act, Act::Pass) {
        let told = format!("{} {path}", head.method);
        inner.noted.lock().unwrap().push(told);
    }
    match act {
        Act::Pass => {}
        Act::Late(time) => tokio::time::sleep(time).await,
        // Closed when they may go.
        Act::Held => drop(inner.go.acquire().await),
        Act::Refuse(status, code) => {
            let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
            let response = Response::builder().status(status);
            return response.body(text.into()).unwrap();
        }
    }
    let body = to_bytes(body, 64 << 20).await.unwrap();
    let answer = inner
        .client
        .request(head.method, format!("http://{}{path}", inner.server))
        .headers(end_to_end(head.headers))
        .body(body)
        .send()
        .await;
    let Ok(answer) = answer else {
        return Response::builder().status(502).body(Body::empty()).unwrap();
    };
    let mut response = Response::builder().status(answer.status());
    let headers = response.headers_mut().unwrap();
    *headers = end_to_end(answer.headers().clone());
    let ahead = inner.ahead.load(Ordering::SeqCst);
    let distance = Duration::from_secs(ahead.unsigned_abs());
    let now = match ahead {
        0.. => SystemTime::now() + distance,
        _ => SystemTime::now() - distance,
    };
    let date = httpdate::fmt_http_date(now);
    headers.insert(header::DATE, date.parse().unwrap());
    let body = answer.bytes().await.unwrap_or_default();
    response.body(body.into()).unwrap()
}

/// The host is part of what was signed, so it stays.
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for name in [header::CONNECTION, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers
}
