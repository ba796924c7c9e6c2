//! A gateway's segments and receipts.

use crate::world::{NOW, in_time, place, slug, stream};
use bytes::Bytes;
use domain::kernel::{AgreementId, GatewayId, Lane};
use domain::stream::{Position, StreamId};
use storage::gateway::{
    AgreementRow, GatewayReceipt, ReceiptVerdict, SegmentVerdict, SegmentWrite, Store,
};
use storage::{OpenError, WriteError};

pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) store: Store,
    writer: std::thread::JoinHandle<Result<(), WriteError>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(tempfile::tempdir().expect("a folder")).await
    }

    async fn on(dir: tempfile::TempDir) -> Self {
        let id = GatewayId::parse("gw1").expect("a slug");
        let path = dir.path().join("gateway.sqlite");
        let (store, writer) = Store::open(&path, &id).await.expect("open");
        Self { dir, store, writer: std::thread::spawn(move || writer.run()) }
    }

    async fn reopened(self) -> Self {
        let Self { dir, store, writer } = self;
        drop(store);
        writer.join().expect("no panic").expect("written");
        Self::on(dir).await
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("gateway.sqlite")
    }

    pub(crate) async fn put(&self, from: u64, to: u64) -> SegmentVerdict {
        self.put_one(segment(from, to)).await
    }

    async fn put_one(&self, segment: SegmentWrite) -> SegmentVerdict {
        self.store.store(vec![segment]).await.expect("written")[0]
    }

    async fn receipt(&self, party: &str, seq: u64) -> ReceiptVerdict {
        self.receipt_as(party, seq, Bytes::from_static(b"signed")).await
    }

    async fn receipt_as(&self, party: &str, seq: u64, signed: Bytes) -> ReceiptVerdict {
        let receipt = GatewayReceipt {
            stream: of(),
            party: slug(party),
            position: place(&of(), seq),
            signed,
            recipients: recipients(),
            now: NOW,
        };
        self.store.keep_receipt(receipt).await.expect("written")
    }

    /// First seqs of what is held.
    async fn held(&self) -> Vec<u64> {
        let held = self.store.list_segments(&of(), 0, usize::MAX).await.expect("read");
        held.into_iter().map(|segment| segment.first_seq).collect()
    }
}

pub(crate) fn of() -> StreamId {
    stream("xiaonanhai", Lane::Routine)
}

fn recipients() -> Vec<domain::kernel::RegionId> {
    vec![slug("daluba"), slug("huolu")]
}

/// Entries `from` to `to`.
fn segment(from: u64, to: u64) -> SegmentWrite {
    SegmentWrite {
        stream: of(),
        before: place(&of(), from - 1),
        after: place(&of(), to),
        encoded: Bytes::from(format!("{from}-{to}")),
        recipients: recipients(),
        now: NOW,
    }
}

fn at(seq: u64) -> Position {
    place(&of(), seq)
}

#[tokio::test]
async fn segments_that_join_on_are_stored_and_the_others_told_where_to_go_on() {
    let world = World::new().await;
    let start = seal::chain::start(&of());
    assert_eq!(world.put(3, 4).await, SegmentVerdict::Apart(start));
    assert_eq!(world.put(1, 2).await, SegmentVerdict::Stored(at(2)));
    assert_eq!(world.put(1, 2).await, SegmentVerdict::Known(at(2)));
    assert_eq!(world.put(4, 5).await, SegmentVerdict::Apart(at(2)));
    let both = world.store.store(vec![segment(3, 4), segment(5, 5), segment(9, 9)]).await.unwrap();
    let told = [at(4), at(5), at(5)];
    let [one, two, three] = told;
    assert_eq!(
        both,
        [SegmentVerdict::Stored(one), SegmentVerdict::Stored(two), SegmentVerdict::Apart(three)]
    );
    let world = world.reopened().await;
    assert_eq!(world.put(6, 6).await, SegmentVerdict::Stored(at(6)));
    assert_eq!(world.held().await, [1, 3, 5, 6]);
    let streams = world.store.list_streams().await.unwrap();
    assert_eq!((streams[0].last, streams[0].oldest_seq), (at(6), 1));
}

#[tokio::test]
async fn two_hashes_for_one_place_are_a_fork() {
    let world = World::new().await;
    world.store.store(vec![segment(1, 4), segment(5, 8)]).await.unwrap();
    let other = [0xee; 32];
    let forked = SegmentVerdict::Forked(at(8));
    let cases: [(u64, u64, fn(&mut SegmentWrite, [u8; 32])); 5] = [
        // The next one does not join on; a copy ends elsewhere, in the middle and at the end.
        (9, 9, |segment, h| segment.before.h = h),
        (1, 4, |segment, h| segment.after.h = h),
        (5, 8, |segment, h| segment.after.h = h),
        // A copy begins elsewhere; one cut at other places ends elsewhere.
        (5, 8, |segment, h| segment.before.h = h),
        (7, 8, |segment, h| segment.after.h = h),
    ];
    for (from, to, spoil) in cases {
        let mut segment = segment(from, to);
        spoil(&mut segment, other);
        assert_eq!(world.put_one(segment).await, forked, "{from}-{to}");
    }
    assert_eq!(world.put(2, 6).await, SegmentVerdict::Known(at(8)));
    assert_eq!(world.held().await, [1, 5]);
}

#[tokio::test]
async fn what_every_party_has_is_dropped_and_receipts_only_go_forward() {
    let world = World::new().await;
    assert_eq!(world.receipt("daluba", 2).await, ReceiptVerdict::UnknownStream);
    world.store.store(vec![segment(1, 2), segment(3, 4), segment(5, 6)]).await.unwrap();
    assert_eq!(world.receipt("daluba", 5).await, ReceiptVerdict::Newer);
    assert_eq!(world.held().await, [1, 3, 5]);
    assert_eq!(world.receipt("daluba", 4).await, ReceiptVerdict::Known);
    let world = world.reopened().await;
    assert_eq!(world.receipt("daluba", 5).await, ReceiptVerdict::Known);
    assert_eq!(world.receipt("huolu", 4).await, ReceiptVerdict::Newer);
    assert_eq!(world.held().await, [5]);
    let streams = world.store.list_streams().await.unwrap();
    assert_eq!((streams[0].last, streams[0].oldest_seq), (at(6), 5));
    assert_eq!(world.store.list_receipts().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_dropped_range_is_filled_again_where_it_joins_on() {
    let world = World::new().await;
    world.store.store(vec![segment(1, 2), segment(3, 4), segment(5, 6)]).await.unwrap();
    for party in ["daluba", "huolu"] {
        world.receipt(party, 4).await;
    }
    assert_eq!(world.held().await, [5]);
    // In the middle of nothing that is known; wrongly before what is held; rightly.
    assert_eq!(world.put(2, 3).await, SegmentVerdict::Apart(at(6)));
    let mut wrong = segment(3, 4);
    wrong.after.h = [0xee; 32];
    assert_eq!(world.put_one(wrong).await, SegmentVerdict::Forked(at(6)));
    assert_eq!(world.put(3, 4).await, SegmentVerdict::Stored(at(6)));
    assert_eq!(world.put(1, 2).await, SegmentVerdict::Stored(at(6)));
    assert_eq!(world.held().await, [1, 3, 5]);
}

#[tokio::test]
async fn segments_that_follow_one_another_give_way_to_one_that_holds_the_same() {
    let world = World::new().await;
    for seq in 1..=5 {
        assert_eq!(world.put(seq, seq).await, SegmentVerdict::Stored(at(seq)));
    }
    // Half of the second would be lost, or nothing would be gained.
    assert_eq!(world.put(2, 2).await, SegmentVerdict::Known(at(5)));
    assert_eq!(world.put(2, 4).await, SegmentVerdict::Stored(at(5)));
    assert_eq!(world.held().await, [1, 2, 5]);
    assert_eq!(world.put(4, 5).await, SegmentVerdict::Known(at(5)));
    // One that leads somewhere else is no packing of what is held.
    let mut other = segment(1, 4);
    other.after.h = [9; 32];
    assert_eq!(world.put_one(other).await, SegmentVerdict::Forked(at(5)));
    assert_eq!(world.held().await, [1, 2, 5]);
    let world = world.reopened().await;
    assert_eq!(world.put(1, 5).await, SegmentVerdict::Stored(at(5)));
    assert_eq!(world.held().await, [1]);
}

#[tokio::test]
async fn a_jump_needs_the_receipts_of_every_party() {
    let world = World::new().await;
    world.put(1, 2).await;
    assert_eq!(world.put(9, 10).await, SegmentVerdict::Apart(at(2)));
    world.receipt("daluba", 8).await;
    assert_eq!(world.put(9, 10).await, SegmentVerdict::Apart(at(2)));
    world.receipt("huolu", 9).await;
    // One party stands just there, with another hash.
    let mut other = segment(9, 10);
    other.before.h = [0xee; 32];
    assert_eq!(world.put_one(other).await, SegmentVerdict::Apart(at(2)));
    let nobody = SegmentWrite { recipients: Vec::new(), ..segment(9, 10) };
    assert_eq!(world.put_one(nobody).await, SegmentVerdict::Apart(at(2)));
    assert_eq!(world.put(9, 10).await, SegmentVerdict::Stored(at(10)));
}

#[tokio::test]
async fn a_commit_tells_its_segments_heads_and_receipts() {
    let world = World::new().await;
    let mut commits = world.store.listen();
    world.put(1, 2).await;
    let told = in_time(commits.recv()).await.unwrap();
    assert_eq!(told.streams[..], [(of(), at(2))]);
    assert_eq!(told.segments[0].1.encoded, "1-2");
    world.store.keep_head(of(), Bytes::from_static(b"head")).await.unwrap();
    assert_eq!(in_time(commits.recv()).await.unwrap().heads.len(), 1);
    world.receipt("daluba", 1).await;
    assert_eq!(in_time(commits.recv()).await.unwrap().receipts.len(), 1);
    let streams = world.store.list_streams().await.unwrap();
    assert_eq!(streams[0].head.as_deref(), Some(&b"head"[..]));
}

#[tokio::test]
async fn reading_stops_at_the_bytes_asked_for_but_gives_one() {
    let world = World::new().await;
    world.store.store(vec![segment(1, 2), segment(3, 4), segment(5, 6)]).await.unwrap();
    let read = async |after, bytes_max| {
        world.store.list_segments(&of(), after, bytes_max).await.unwrap().len()
    };
    assert_eq!((read(0, 0).await, read(0, 6).await, read(3, 99).await), (1, 2, 2));
    assert_eq!(read(6, 99).await, 0);
}

#[tokio::test]
async fn of_an_agreement_version_the_text_is_kept_that_was_decided_on_last() {
    let world = World::new().await;
    let agreement: AgreementId = of().agreement;
    for signed in ["first", "second"] {
        let row = AgreementRow { agreement, version: 1, sha256: [1; 32], signed: signed.into() };
        world.store.keep_agreement(row).await.unwrap();
    }
    let rows = world.store.list_agreements().await.unwrap();
    assert_eq!((rows.len(), &rows[0].signed[..]), (1, &b"second"[..]));
}

#[tokio::test]
async fn a_store_of_another_gateway_is_refused() {
    let world = World::new().await;
    let other = GatewayId::parse("gw2").unwrap();
    let opened = Store::open(&world.dir.path().join("gateway.sqlite"), &other).await;
    assert!(matches!(opened, Err(OpenError::WrongOwner { .. })));
}

#[tokio::test]
async fn a_receipt_that_says_the_same_under_another_key_takes_the_place_of_the_one_before() {
    let world = World::new().await;
    world.put(1, 3).await;
    // Encoded signed objects: a body, and a signature that names nothing but its key.
    let signed = |key: u8, body: u8| {
        let signature = [&[0x12, 8][..], &[key; 8]].concat();
        Bytes::from([&[0x0a, 1, body, 0x12, 10][..], &signature].concat())
    };
    let held = async || world.store.list_receipts().await.unwrap().remove(0).signed;
    assert_eq!(world.receipt_as("daluba", 2, signed(1, 1)).await, ReceiptVerdict::Newer);
    assert_eq!(world.receipt_as("daluba", 2, signed(1, 2)).await, ReceiptVerdict::Known);
    assert_eq!(held().await, signed(1, 1));
    assert_eq!(world.receipt_as("daluba", 2, signed(2, 3)).await, ReceiptVerdict::Newer);
    assert_eq!(held().await, signed(2, 3));
    // One that says less is of before, whoever signed it.
    assert_eq!(world.receipt_as("daluba", 1, signed(3, 4)).await, ReceiptVerdict::Known);
    assert_eq!(held().await, signed(2, 3));
}
