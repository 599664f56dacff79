//! Prometheus metrics: one registry a process, requests counted for every method, an HTTP endpoint.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::sync::Semaphore;
use tower::{Layer, Service};

/// The metrics of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    requests: Family<MethodCode, Counter>,
    latency: Family<Method, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    /// Calls answered, of any kind: whether anybody has asked for anything.
    answered: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodCode {
    method: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("slipway");
        let requests = Family::<MethodCode, Counter>::default();
        // Seconds until the response starts: 0.25 ms to 8 s.
        let latency = Family::<Method, Histogram, fn() -> Histogram>::new_with_constructor(|| {
            Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(
                0.00025, 2.0, 16,
            ))
        });
        let in_flight = Gauge::default();
        registry.register("grpc_requests", "gRPC calls answered", requests.clone());
        registry.register(
            "grpc_response_start_seconds",
            "Seconds until the response of a call starts",
            latency.clone(),
        );
        registry.register(
            "grpc_in_flight",
            "gRPC calls not answered yet",
            in_flight.clone(),
        );
        Self {
            registry: Arc::new(Mutex::new(registry)),
            requests,
            latency,
            in_flight,
            answered: Counter::default(),
        }
    }
}

impl Metrics {
    /// Registers a metric of the service's own.
    pub fn register(
        &self,
        name: &str,
        help: &str,
        metric: impl prometheus_client::registry::Metric,
    ) {
        self.lock().register(name, help, metric);
    }

    /// All metrics in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.lock());
        text
    }

    /// How many calls were answered until now.
    pub fn answered(&self) -> u64 {
        self.answered.get()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn record(&self, path: &str, code: &str, started: Instant) {
        self.answered.inc();
        // Foreign paths must not become labels: an attacker would grow the table without end.
        let method = if code == "12" { "unimplemented" } else { path };
        let method = method.trim_start_matches('/').to_owned();
        self.requests
            .get_or_create(&MethodCode {
                method: method.clone(),
                code: code.to_owned(),
            })
            .inc();
        self.latency
            .get_or_create(&Method { method })
            .observe(started.elapsed().as_secs_f64());
    }
}

/// Connections to the metrics at once; one more is sent away.
const CONNECTIONS: usize = 16;

/// How long one of them may last, whatever is sent on it.
const LIFE: Duration = Duration::from_secs(10);

/// Serves `GET /metrics` until the process stops.
pub async fn serve(metrics: Metrics, listener: tokio::net::TcpListener) {
    serve_each_for(metrics, listener, LIFE).await;
}

async fn serve_each_for(metrics: Metrics, listener: tokio::net::TcpListener, life: Duration) {
    let app = axum::Router::new().route(
        "/metrics",
        axum::routing::get(move || {
            let text = metrics.render();
            async move {
                (
                    [(
                        "content-type",
                        "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    )],
                    text,
                )
            }
        }),
    );
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors: better to wait for one than to spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let service = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new()).http1_only();
            let served = server.serve_connection(TokioIo::new(stream), service);
            // Who is cut off, or breaks off, comes again.
            let _ = tokio::time::timeout(life, served).await;
            drop(place);
        });
    }
}

/// Counts calls; a layer around all gRPC services.
#[derive(Clone)]
pub struct CountLayer(pub Metrics);

impl<S> Layer<S> for CountLayer {
    type Service = Count<S>;
    fn layer(&self, inner: S) -> Count<S> {
        Count {
            inner,
            metrics: self.0.clone(),
        }
    }
}

/// See [`CountLayer`].
#[derive(Clone)]
pub struct Count<S> {
    inner: S,
    metrics: Metrics,
}

/// Counts a call that is dropped before it is answered down, too.
struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl<S, A, B> Service<Request<A>> for Count<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let started = Instant::now();
        let metrics = self.metrics.clone();
        metrics.in_flight.inc();
        let in_flight = InFlight(metrics.in_flight.clone());
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await;
            drop(in_flight);
            if let Ok(response) = &response {
                // Errors before the first message come as a header; later ones as a trailer, which is
                // not counted as a failed start.
                let code = response
                    .headers()
                    .get("grpc-status")
                    .and_then(|v| v.to_str().ok());
                metrics.record(&path, code.unwrap_or("0"), started);
            }
            response
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn who_says_nothing_holds_no_place_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let life = Duration::from_secs(4);
        tokio::spawn(serve_each_for(Metrics::default(), listener, life));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let started = Instant::now();
        let mut end = Vec::new();
        let mut late = TcpStream::connect(address).await.unwrap();
        // Sent away: that may come as a reset.
        let _ = late.read_to_end(&mut end).await;
        assert!(started.elapsed() < life);
        for mut stream in silent {
            let _ = stream.read_to_end(&mut end).await;
        }
        let mut next = TcpStream::connect(address).await.unwrap();
        let ask = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        next.write_all(ask).await.unwrap();
        let mut answer = String::new();
        next.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("slipway_grpc_in_flight"), "{answer}");
    }

    #[test]
    fn calls_are_counted_by_method_and_code_and_foreign_paths_are_not_labels() {
        let metrics = Metrics::default();
        metrics.record("/slipway.x.v1.X/Get", "0", Instant::now());
        metrics.record("/etc/passwd", "12", Instant::now());
        let text = metrics.render();
        assert!(
            text.contains(r#"slipway_grpc_requests_total{method="slipway.x.v1.X/Get",code="0"} 1"#),
            "{text}"
        );
        assert!(!text.contains("passwd"));
    }
}
