//! Goal: only who should get through does, in both directions. Method: real handshakes over
//! loopback; a connection counts once a byte of the server has reached the client, because a client
//! learns only then that its certificate was taken.

use super::{Anchor, ClientAuth, ClientTls, Hosted, ServerTls, TlsError};
use crate::connections::Peer;
use crate::fixture::{LIMITS, Party, Port, gateway, in_time, linkage, now, region, server, trust};
use crate::identity::Identity;
use crate::pki::{Authority, IssuedKey, Validity, fingerprint};
use crate::telemetry::ErrorChain;
use domain::kernel::{LinkageId, RegionId};
use futures_util::StreamExt;
use rustls::HandshakeKind;
use rustls::client::Resumption;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Connects once; gives the peer as the server sees it, or why the client got nowhere.
async fn check(tls: &ServerTls, client: &ClientTls) -> Result<Peer, String> {
    let mut port = Port::open(tls, LIMITS).await;
    let endpoint = port.addr.to_string();
    let mut seen = None;
    let greeting = Box::pin(async {
        let mut stream =
            client.connect(&endpoint).await.map_err(|error| ErrorChain(&error).to_string())?;
        stream.read_u8().await.map_err(|error| error.to_string())
    });
    // Boxed, because connections are large and futures that hold a few of them should not be.
    let greeter = Box::pin(async {
        let mut open = Vec::new();
        while let Some(Ok(mut io)) = port.incoming.next().await {
            seen = Some(io.peer().clone());
            io.write_u8(1).await.expect("written");
            io.flush().await.expect("flushed");
            open.push(io);
        }
    });
    let greeted = in_time(async {
        tokio::select! {
            greeted = greeting => greeted,
            () = greeter => unreachable!("the stream never ends"),
        }
    })
    .await;
    greeted.map(|_| seen.expect("who was greeted was seen"))
}

async fn check_refused(tls: &ServerTls, client: &ClientTls, why: &str) {
    let refused = check(tls, client).await.expect_err(why);
    assert!(refused.contains(why), "`{refused}` should say `{why}`");
}

/// A gateway that trusts the regions a and b, and those two.
fn world(client_auth: ClientAuth) -> (Party, ServerTls, Party, Party) {
    let (gateway, a, b) = (gateway(), region("a"), region("b"));
    let tls = server(&[&gateway], trust(&[&a, &b]), client_auth);
    (gateway, tls, a, b)
}

#[tokio::test]
async fn a_client_without_a_certificate_is_nobody_or_refused() {
    let (gateway, tls, _, _) = world(ClientAuth::Optional);
    let peer = check(&tls, &gateway.client(None)).await.expect("let in");
    assert!(peer.identity.is_none() && peer.certificate.is_none());
    let (gateway, tls, _, _) = world(ClientAuth::Required);
    check_refused(&tls, &gateway.client(None), "CertificateRequired").await;
}

#[tokio::test]
async fn a_region_and_its_phone_are_known_by_name() {
    let (gateway, tls, a, _) = world(ClientAuth::Required);
    let key = a.key();
    let peer = check(&tls, &gateway.client(Some(&key))).await.expect("let in");
    assert_eq!(peer.identity, Some(a.identity.clone()));
    let shown = peer.certificate.expect("shown");
    assert_eq!(shown.sha256, fingerprint(&key.chain_der[0]));
    assert_eq!(peer.server_name.as_deref(), Some("gw1.gateway.wuling.internal"));
    let (phone, key) = a.phone();
    let peer = check(&tls, &gateway.client(Some(&key))).await.expect("let in");
    assert_eq!(peer.identity, Some(phone));
}

#[tokio::test]
async fn an_authority_cannot_make_another_identity() {
    let (gateway, tls, a, b) = world(ClientAuth::Optional);
    let week = Validity::days(now(), 7);
    let (phone, _) = a.phone();
    let forger = region("a");
    for (signer, name) in
        [(&a, &b.identity), (&b, &phone), (&a, &gateway.identity), (&forger, &a.identity)]
    {
        let key = signer.sign(name, week);
        let refused = check(&tls, &gateway.client(Some(&key))).await.expect_err("refused");
        assert!(refused.contains("received fatal alert"), "{refused}");
    }
}

#[tokio::test]
async fn a_certificate_out_of_its_time_is_refused() {
    let (gateway, tls, a, _) = world(ClientAuth::Optional);
    for (from_days, to_days) in [(-8, -1), (1, 8)] {
        let (not_before, not_after) = (now().plus_days(from_days), now().plus_days(to_days));
        let key = a.sign(&a.identity, Validity { not_before, not_after });
        check_refused(&tls, &gateway.client(Some(&key)), "CertificateExpired").await;
    }
}

#[tokio::test]
async fn a_revoked_party_or_certificate_is_refused_and_others_are_not() {
    let (gateway, a) = (gateway(), region("a"));
    let ((lost, lost_key), (_, kept_key)) = (a.phone(), a.phone());
    let (old_key, new_key) = (a.key(), a.key());
    let mut trust = trust(&[&a]);
    trust.revoke(lost);
    trust.revoke_certificate(fingerprint(&old_key.chain_der[0]));
    let tls = server(&[&gateway], trust, ClientAuth::Optional);
    for key in [&lost_key, &old_key] {
        check_refused(&tls, &gateway.client(Some(key)), "CertificateRevoked").await;
    }
    for key in [&kept_key, &new_key] {
        check(&tls, &gateway.client(Some(key))).await.expect("let in");
    }
}

#[tokio::test]
async fn a_name_that_nobody_vouches_for_is_refused() {
    let (gateway, tls, a, _) = world(ClientAuth::Optional);
    let unknown = region("c");
    let week = Validity::days(now(), 7);
    let elsewhere = LinkageId::parse("elsewhere").expect("slug");
    let other_linkage =
        a.authority.issue_server(&elsewhere, &a.identity, &[], &[], week).expect("issued");
    // An authority's own certificate has no name of a party.
    let pem = a.authority.certificate_pem();
    let authority = IssuedKey::from_pem(&pem, &a.authority.key_pem()).expect("read");
    for key in [unknown.key(), other_linkage, authority] {
        check_refused(&tls, &gateway.client(Some(&key)), "received fatal alert").await;
    }
}

#[tokio::test]
async fn a_phone_certificate_serves_nobody() {
    let a = region("a");
    let (_, phone_key) = a.phone();
    // The name is the region's, the purpose a phone's.
    let (key_der, request) = crate::pki::new_request().expect("a request");
    let week = Validity::days(now(), 7);
    let chain_der =
        a.authority.issue_from_request(&linkage(), &a.identity, &request, week).expect("issued");
    for key in [phone_key, IssuedKey { chain_der, key_der }] {
        let hosted = [Hosted { server_names: vec![], key }];
        let tls = ServerTls::new(&hosted, trust(&[]), ClientAuth::Optional).expect("a server");
        check_refused(&tls, &a.client(None), "no secure connection to region/a").await;
    }
}

#[tokio::test]
async fn a_client_refuses_a_server_that_is_another() {
    let (a, b) = (region("a"), region("b"));
    // An authority of the same name, with a key of its own.
    let forger = region("a");
    let tls = |key| {
        let hosted = [Hosted { server_names: vec![], key }];
        ServerTls::new(&hosted, trust(&[]), ClientAuth::Optional).expect("a server")
    };
    let week = Validity::days(now(), 7);
    let past = Validity { not_before: now().plus_days(-9), not_after: now().plus_days(-1) };
    for (key, why) in [
        (b.key(), "certificate is of region/b of linkage wuling, expected region/a"),
        (b.sign(&a.identity, week), "UnknownIssuer"),
        (forger.key(), "BadSignature"),
        (a.sign(&a.identity, past), "certificate expired"),
    ] {
        check_refused(&tls(key), &a.client(None), why).await;
    }
    check(&tls(a.key()), &a.client(None)).await.expect("the right one");
}

#[tokio::test]
async fn a_fingerprint_is_enough_to_know_an_authority() {
    let (a, b) = (region("a"), region("b"));
    let tls = server(&[&a], trust(&[]), ClientAuth::Optional);
    let client = |authority: &Authority| {
        let anchor = Anchor::Fingerprint(authority.fingerprint());
        ClientTls::new(&linkage(), a.identity.clone(), anchor, None).expect("a client")
    };
    check(&tls, &client(&a.authority)).await.expect("let in");
    check_refused(&tls, &client(&b.authority), "UnknownIssuer").await;
    // Whoever sends the right authority's certificate along has not yet been signed by it.
    let mut forged = b.sign(&a.identity, Validity::days(now(), 7));
    forged.chain_der.push(a.authority.certificate_der().to_vec());
    let hosted = [Hosted { server_names: vec![], key: forged }];
    let tls = ServerTls::new(&hosted, trust(&[]), ClientAuth::Optional).expect("a server");
    check_refused(&tls, &client(&a.authority), "invalid peer certificate").await;
}

#[tokio::test]
async fn each_hosted_region_shows_its_own_certificate() {
    let (a, b, c) = (region("a"), region("b"), region("c"));
    let tls = server(&[&a, &b], trust(&[]), ClientAuth::Optional);
    for party in [&a, &b] {
        let peer = check(&tls, &party.client(None)).await.expect("let in");
        let name = party.identity.dns_name(&linkage());
        assert_eq!(peer.server_name.as_deref(), Some(&*name));
    }
    check_refused(&tls, &c.client(None), "received fatal alert").await;
}

#[tokio::test]
async fn a_reload_counts_for_handshakes_to_come() {
    let (gateway, tls, a, b) = world(ClientAuth::Required);
    let (a_client, b_client) = (gateway.client(Some(&a.key())), gateway.client(Some(&b.key())));
    check(&tls, &a_client).await.expect("let in");
    tls.reload(&[gateway.hosted()], trust(&[&b])).expect("reloaded");
    check_refused(&tls, &a_client, "received fatal alert").await;
    check(&tls, &b_client).await.expect("let in");
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let (gateway, tls, a, _) = world(ClientAuth::Required);
    let mut client = gateway.client(Some(&a.key()));
    let mut config = (*client.config).clone();
    config.resumption = Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    client.config = Arc::new(config);
    let mut port = Port::open(&tls, LIMITS).await;
    let endpoint = port.addr.to_string();
    for _ in 0..2 {
        let (stream, io) =
            in_time(async { tokio::join!(client.connect(&endpoint), port.incoming.next()) }).await;
        let mut io = io.expect("one").expect("good");
        let mut stream = stream.expect("connected");
        io.write_u8(1).await.expect("written");
        io.flush().await.expect("flushed");
        in_time(stream.read_u8()).await.expect("read");
        let (_, session) = stream.get_ref();
        assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(session.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn a_client_that_does_not_speak_http2_is_refused() {
    let (gateway, tls, _, _) = world(ClientAuth::Optional);
    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut client = gateway.client(None);
        let mut config = (*client.config).clone();
        config.alpn_protocols = protocols;
        client.config = Arc::new(config);
        check(&tls, &client).await.expect_err("refused");
    }
}

#[tokio::test]
async fn tls_1_2_is_refused_by_an_alert() {
    let (_, tls, _, _) = world(ClientAuth::Optional);
    let mut port = Port::open(&tls, LIMITS).await;
    let alert = in_time(async {
        let mut tcp = TcpStream::connect(port.addr).await.expect("connected");
        // A hello of TLS 1.2: version 3.3, no supported_versions; one suite, one signature scheme.
        let extensions = [0x00, 0x0d, 0x00, 0x04, 0x00, 0x02, 0x04, 0x03];
        let mut hello = vec![0x03, 0x03];
        hello.extend([7; 32]);
        hello.extend([0x00, 0x00, 0x02, 0xc0, 0x2b, 0x01, 0x00, 0x00, extensions.len() as u8]);
        hello.extend(extensions);
        let mut record = vec![0x16, 0x03, 0x01, 0x00, hello.len() as u8 + 4, 0x01, 0x00, 0x00];
        record.push(hello.len() as u8);
        record.extend(hello);
        tcp.write_all(&record).await.expect("written");
        let mut answer = Vec::new();
        tokio::select! {
            read = tcp.read_to_end(&mut answer) => drop(read),
            _ = port.incoming.next() => unreachable!("it is refused"),
        }
        answer
    })
    .await;
    // Record type alert, level fatal, `protocol_version`.
    assert_eq!((alert[0], &alert[5..]), (0x15, &[2, 70][..]), "{alert:?}");
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_at_once() {
    let a = region("a");
    let serve = |hosted: &[Hosted]| ServerTls::new(hosted, trust(&[]), ClientAuth::Optional);
    let twice = serve(&[a.hosted(), a.hosted()]);
    assert!(matches!(twice, Err(TlsError::NameTwice(name)) if name == "a.region.wuling.internal"));
    let bad = Hosted { server_names: vec!["two words".to_owned()], key: a.key() };
    assert!(matches!(serve(&[bad]), Err(TlsError::Name(_))));
    let key = IssuedKey { chain_der: a.key().chain_der, key_der: a.key().key_der };
    let mixed = serve(&[Hosted { server_names: vec![], key }]);
    assert!(matches!(mixed, Err(TlsError::Key(_))));
    let none = IssuedKey { chain_der: vec![], key_der: a.key().key_der };
    assert!(matches!(serve(&[Hosted { server_names: vec![], key: none }]), Err(TlsError::Key(_))));
    let dashed = Identity::Region(RegionId::parse("-").expect("slug"));
    let anchor = Anchor::Certificate(a.authority.certificate_der());
    assert!(matches!(ClientTls::new(&linkage(), dashed, anchor, None), Err(TlsError::Name(_))));
    let anchor = Anchor::Certificate(b"no certificate");
    let unread = ClientTls::new(&linkage(), a.identity.clone(), anchor, None);
    assert!(matches!(unread, Err(TlsError::Authority(_))));
}
