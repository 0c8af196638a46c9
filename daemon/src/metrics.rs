//! The `--metrics` endpoint: `/metrics` for Prometheus, `/status` for humans.

use crate::errors::Error;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Bytes, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nitrotap_core::counters::{CounterSet, Desc, Kind, Shared};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{net::TcpListener, sync::Semaphore};

type Counters = Box<dyn Fn(&mut dyn FnMut(Desc, u64)) + Send + Sync>;
type StatusText = Box<dyn Fn() -> String + Send + Sync>;

/// Whatever the running parts have to tell; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Sources {
    inner: Arc<RwLock<Inner>>,
}

#[derive(Default)]
struct Inner {
    counters: Vec<Counters>,
    status: Vec<StatusText>,
}

impl Sources {
    /// Adds values that `read` hands to its argument at every scrape.
    pub(crate) fn add(&self, read: impl Fn(&mut dyn FnMut(Desc, u64)) + Send + Sync + 'static) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).counters.push(Box::new(read));
    }

    /// Adds a published counter set.
    pub(crate) fn add_counters<C: CounterSet + 'static>(&self, shared: Arc<Shared<C>>) {
        self.add(move |tell| shared.read().for_each(|(desc, value)| tell(desc, value)));
    }

    /// Adds lines to `/status`.
    pub(crate) fn add_status(&self, text: impl Fn() -> String + Send + Sync + 'static) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).status.push(Box::new(text));
    }

    /// Everything in the text format of OpenMetrics 1.0.
    fn metrics_text(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Values(self.read())));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn status_text(&self) -> String {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.status.iter().map(|text| text()).collect()
    }

    /// All values, grouped by name in the order in which names first occur.
    fn read(&self) -> Vec<(Desc, u64)> {
        let mut values: Vec<(Desc, u64)> = Vec::new();
        for source in &self.inner.read().unwrap_or_else(PoisonError::into_inner).counters {
            source(&mut |desc, value| {
                let same = values.iter().rposition(|(d, _)| d.name == desc.name);
                values.insert(same.map_or(values.len(), |at| at + 1), (desc, value));
            });
        }
        values
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Values(Vec<(Desc, u64)>);

impl Collector for Values {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in self.0.chunk_by(|a, b| a.0.name == b.0.name) {
            let (Desc { name, help, kind, .. }, _) = family[0];
            let kind_of = if kind == Kind::Counter { MetricType::Counter } else { MetricType::Gauge };
            let mut metric = encoder.encode_descriptor(name, help, None, kind_of)?;
            if let [(desc, value)] = family
                && desc.labels.is_empty()
            {
                encode_value(kind, *value, metric)?;
                continue;
            }
            for (desc, value) in family {
                encode_value(kind, *value, metric.encode_family(&desc.labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode_value(kind: Kind, value: u64, metric: MetricEncoder<'_>) -> fmt::Result {
    match kind {
        Kind::Counter => ConstCounter::new(value).encode(metric),
        Kind::Gauge => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric),
    }
}

/// Scrapers at a time; one is usual.
const MAX_CONNECTIONS: usize = 16;

/// Listens on `address`.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|e| {
        Error::runtime(format!("cannot listen on {address} for --metrics: {e}; choose another address or port"))
    })
}

/// Serves `sources` there until the process ends.
pub(crate) fn serve(listener: TcpListener, sources: Sources) {
    tokio::spawn(accept(listener, sources));
}

async fn accept(listener: TcpListener, sources: Sources) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                seldom!(WARN, 0_u32, "cannot accept a connection for metrics", %error);
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let sources = sources.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, &sources))));
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
            // A scraper that hangs up early is its own affair.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
            drop(place);
        });
    }
}

fn answer<B>(request: &Request<B>, sources: &Sources) -> Response<Full<Bytes>> {
    const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    const TEXT: &str = "text/plain; charset=utf-8";
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match sources.metrics_text() {
            Ok(text) => (StatusCode::OK, METRICS, text),
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, "cannot write the metrics\n".to_owned()),
        },
        (&Method::GET | &Method::HEAD, "/status") => (StatusCode::OK, TEXT, sources.status_text()),
        (_, "/metrics" | "/status") => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, TEXT, "try /metrics or /status\n".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    nitrotap_core::counters! {
        struct Tx {
            /// Frames moved.
            frames: Counter "frames" { direction = "tx" },
            /// Whether it is up.
            up: Gauge "up" {},
        }
    }
    nitrotap_core::counters! {
        struct Rx {
            /// Frames moved.
            frames: Counter "frames" { direction = "rx" },
        }
    }

    #[test]
    fn values_of_one_name_from_several_sources_form_one_family() {
        let sources = Sources::default();
        let (tx, rx) = (Arc::new(Shared::<Tx>::default()), Arc::new(Shared::<Rx>::default()));
        sources.add_counters(Arc::clone(&tx));
        sources.add_counters(Arc::clone(&rx));
        tx.publish(&Tx { frames: 3, up: 1 });
        rx.publish(&Rx { frames: 4 });
        let expected = "# HELP frames Frames moved.\n# TYPE frames counter\n\
             frames_total{direction=\"tx\"} 3\nframes_total{direction=\"rx\"} 4\n\
             # HELP up Whether it is up.\n# TYPE up gauge\nup 1\n# EOF\n";
        assert_eq!(sources.metrics_text().unwrap(), expected);
    }

    #[test]
    fn other_paths_and_methods_are_told_apart() {
        let ask = |method: Method, path: &str| {
            let request = Request::builder().method(method).uri(path).body(()).unwrap();
            answer(&request, &Sources::default()).status().as_u16()
        };
        assert_eq!(ask(Method::GET, "/metrics"), 200);
        assert_eq!(ask(Method::POST, "/metrics"), 405);
        assert_eq!(ask(Method::GET, "/"), 404);
    }
}
