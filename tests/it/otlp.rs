//! Traces reach a collector: a push and the write below it are one trace, a trace that a device of the
//! region began goes on, and none crosses the border.

use crate::harness::{A, ARRIVES, B, Collector, World, batch, converged, until};
use domain::kernel::Role;
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::Request;

const PUSH: &str = "wuling.device.v1.DeviceService/Push";
/// A trace that a phone began: its id, and the header that carries it.
const TRACE: [u8; 16] = [0x4b; 16];
const TRACEPARENT: &str = "00-4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b-0123456789abcdef-01";

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_push_arrives_at_the_collector() {
    let collector = Collector::start().await;
    let mut world = World::start().await;
    world.observe("info", Some(&collector)).await;
    let phone = world.enrol(A, Role::Patroller, "phone").await;
    let (desk_a, desk_b) = (
        world.enrol(A, Role::DutyOfficer, "desk").await,
        world.enrol(B, Role::DutyOfficer, "desk").await,
    );
    let mut service = cli::client::device_service(phone.channel());
    let mut request = Request::new(batch(&phone, 1, 3).0);
    request.metadata_mut().insert("traceparent", TRACEPARENT.parse().unwrap());
    service.push(request).await.unwrap();
    let (request, _) = batch(&phone, 4, 3);
    service.push(request).await.unwrap();
    converged(desk_a.channel(), desk_b.channel(), ARRIVES).await;
    world.stop().await;

    let mut spans = Vec::new();
    until("the traces arrive", ARRIVES, async || {
        spans = collector.spans();
        named(&spans, PUSH).count() == 2
    })
    .await;
    let (traced, fresh): (Vec<&Span>, Vec<&Span>) =
        named(&spans, PUSH).partition(|span| span.trace_id == TRACE);
    assert_eq!((traced.len(), fresh.len()), (1, 1), "{spans:#?}");
    for push in traced.iter().chain(&fresh) {
        let below: Vec<&Span> =
            named(&spans, "db.write").filter(|span| span.parent_span_id == push.span_id).collect();
        assert_eq!(below.len(), 1, "the write of a push is not below it");
        assert_eq!(below[0].trace_id, push.trace_id);
    }
    // What crossed the border is traced on both sides, each side for itself.
    for (name, service) in [("exchange.cut", "wuling-region"), ("gateway.store", "wuling-gateway")]
    {
        let found = spans.iter().filter(|(_, span)| span.name == name);
        let found: Vec<_> = found.collect();
        assert!(!found.is_empty(), "{name} is not traced");
        assert!(found.iter().all(|(of, _)| of.contains(service)), "{found:#?}");
    }
    let elsewhere = spans.iter().filter(|(_, span)| span.trace_id == TRACE);
    assert!(elsewhere.clone().all(|(of, _)| of.contains("wuling-region")), "a trace went over");
    let applied = named(&spans, "exchange.take").next().expect("a range was taken");
    assert!(applied.parent_span_id.is_empty(), "a range continues a trace: {applied:#?}");
}

fn named<'a>(spans: &'a [(String, Span)], name: &'a str) -> impl Iterator<Item = &'a Span> {
    spans.iter().map(|(_, span)| span).filter(move |span| span.name == name)
}
