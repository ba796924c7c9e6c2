//! Somebody with the disk in his hands edits one row: the audit names it. Method: real servers write real
//! stores; one row of a copy is changed, taken out or put in, and the copy is audited.

use crate::explain::report;
use crate::harness::{A, ARRIVES, B, COUNTY, World, batch, binary, converged, event, kept};
use crate::harness::{pull_all, sos, states, until};
use domain::kernel::Role;
use domain::operation::Change;
use rusqlite::Connection;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Audits a data folder; gives a report a store, and whether all was well.
pub(crate) fn verify(data: &Path) -> (bool, Vec<Value>) {
    let mut verifying = Command::new(binary("wuling"));
    let done = verifying.args(["verify", "--json", "--data"]).arg(data).output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    let reports: Vec<_> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!reports.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    (done.status.success(), reports)
}

/// What an audit of the folder finds in all: table, number, what.
pub(crate) fn findings(data: &Path) -> Vec<(String, u64, String)> {
    let (well, reports) = verify(data);
    let found: Vec<_> = reports
        .iter()
        .flat_map(|report| report["findings"].as_array().unwrap())
        .map(|finding| {
            let text = |name: &str| finding[name].as_str().unwrap().to_owned();
            (text("table"), finding["number"].as_u64().unwrap(), text("what"))
        })
        .collect();
    assert_eq!(well, found.is_empty());
    found
}

/// Does something to one row of a store.
type Edit = Box<dyn Fn(&Connection)>;

/// Audits a copy of a data folder after an edit.
fn edited(data: &Path, store: &str, edit: &Edit) -> Vec<(String, u64, String)> {
    let dir = tempfile::tempdir().unwrap();
    let mut copying = Command::new("cp");
    let copied = copying.arg("-r").arg(data).arg(dir.path()).status().unwrap();
    assert!(copied.success());
    let copy = dir.path().join(data.file_name().unwrap());
    let conn = Connection::open(copy.join(store)).unwrap();
    edit(&conn);
    conn.close().unwrap();
    findings(&copy)
}

/// Runs a statement that hits one row.
fn sql(text: String) -> Edit {
    Box::new(move |conn| assert_eq!(conn.execute(&text, []).unwrap(), 1, "{text}"))
}

/// Turns the last bit of a blob of one row.
fn flip(table: &'static str, column: &'static str, which: &str) -> Edit {
    let which = which.to_owned();
    Box::new(move |conn| {
        let select = format!("SELECT {column} FROM {table} WHERE {which}");
        let mut blob: Vec<u8> = conn.query_row(&select, [], |row| row.get(0)).unwrap();
        *blob.last_mut().unwrap() ^= 1;
        let update = format!("UPDATE {table} SET {column} = ?1 WHERE {which}");
        assert_eq!(conn.execute(&update, [blob]).unwrap(), 1, "{update}");
    })
}

/// Load both ways, all of it received and signed for but the end, which waits at the gateway.
async fn written() -> World {
    let mut world = World::start().await;
    let mut phone = world.enrol(A, Role::Patroller, "phone").await;
    let other = world.enrol(A, Role::Patroller, "other").await;
    let desk_a = world.enrol(A, Role::DutyOfficer, "desk").await;
    let desk_b = world.enrol(B, Role::DutyOfficer, "desk").await;
    let mut service = cli::client::device_service(other.channel());
    let mut push = async |round: u64| {
        let (request, records) = batch(&other, 1 + round * 500, 500);
        let answer = service.push(request).await.unwrap().into_inner();
        assert_eq!(kept(&answer, &records).len(), 500);
    };
    for round in 0..4 {
        push(round).await;
    }
    report(&mut phone, Change::ReportEvent(event("落石"))).await;
    report(&mut phone, Change::RaiseSos(sos("摔伤"))).await;
    assert_eq!(converged(desk_a.channel(), desk_b.channel(), ARRIVES).await, 2_002);
    for _ in 0..4 {
        pull_all(desk_b.channel()).await;
    }
    world.b.stop().await;
    for round in 4..8 {
        push(round).await;
    }
    until("the rest is at the gateway", ARRIVES, async || {
        let streams = states(desk_a.channel()).await.map(|state| state.streams).unwrap_or_default();
        streams.iter().any(|row| row.stored_seq > 4_000)
    })
    .await;
    world.a.stop().await;
    world.gateway.stop().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_older_than_its_salts_is_checked_as_far_as_it_goes() {
    let world = written().await;
    let older: Edit = Box::new(|conn: &Connection| {
        conn.execute_batch("UPDATE view SET salt = NULL WHERE seq < 900; DELETE FROM control WHERE inbox_no IN (SELECT inbox_no FROM view WHERE salt IS NULL)").unwrap();
    });
    let store = format!("regions/{B}/store.sqlite");
    assert_eq!(edited(&world.path("b"), &store, &older), []);
    let edits: Edit = Box::new(move |conn| {
        older(conn);
        conn.execute("UPDATE view SET view_sha256 = x'00' WHERE seq = 700", []).unwrap();
    });
    let found = edited(&world.path("b"), &store, &edits);
    assert_eq!(found, [("view".to_owned(), 700, "CHANGED".to_owned())]);
}

/// An edit, and the table and the kind of what must be found first.
type Case = (Edit, &'static str, &'static str);

fn one_of(table: &str, order: &str) -> String {
    format!(
        "(stream_no, last_seq) IN (SELECT stream_no, last_seq FROM {table} ORDER BY {order} LIMIT 1)"
    )
}

fn at_the_origin() -> Vec<Case> {
    let (large, last) =
        (one_of("outbox", "length(entries) DESC"), one_of("outbox", "last_seq DESC"));
    let lower = sql("UPDATE receipt SET seq = seq - 1 WHERE seq > 1000".to_owned());
    vec![
        (flip("outbox", "entries", &large), "outbox", "CHANGED"),
        (flip("outbox", "h_before", &last), "outbox", "CHANGED"),
        (sql(format!("DELETE FROM outbox WHERE {large}")), "outbox", "MISSING"),
        (sql(format!("DELETE FROM outbox WHERE {last}")), "outbox", "MISSING"),
        (flip("stream", "last_h", "last_seq > 1000"), "stream", "OTHER_HISTORY"),
        (flip("receipt", "signed", "seq > 1000"), "receipt", "SIGNATURE_INVALID"),
        (lower, "receipt", "SIGNATURE_INVALID"),
    ]
}

fn at_the_recipient() -> Vec<Case> {
    let view = "seq = 700";
    // The payload and its hash are another's: only the chain tells.
    let both = "UPDATE view SET (encoded, view_sha256) =
        (SELECT w.encoded, w.view_sha256 FROM view w WHERE w.seq = 701) WHERE seq = 700";
    let start = "DELETE FROM control WHERE inbox_no IN
        (SELECT inbox_no FROM inbox WHERE applied_seq > 1000)";
    let further = "UPDATE inbox SET applied_seq = applied_seq + 1 WHERE applied_seq > 1000";
    let look = "UPDATE disclosure SET count = count + 1 WHERE disclosure_no = 2";
    vec![
        (flip("view", "view_sha256", view), "view", "CHANGED"),
        (sql(format!("DELETE FROM view WHERE {view}")), "view", "MISSING"),
        (sql(format!("UPDATE view SET seq = 70000 WHERE {view}")), "view", "MISSING"),
        (flip("view", "salt", view), "inbox", "CHAIN_BROKEN"),
        (sql(format!("UPDATE view SET salt = NULL WHERE {view}")), "view", "CHANGED"),
        (sql(both.to_owned()), "inbox", "CHAIN_BROKEN"),
        (sql(start.to_owned()), "view", "MISSING"),
        (sql(further.to_owned()), "view", "MISSING"),
        (flip("inbox", "applied_h", "applied_seq > 1000"), "inbox", "CHAIN_BROKEN"),
        (sql(look.to_owned()), "disclosure", "CHANGED"),
        (sql("DELETE FROM disclosure WHERE disclosure_no = 2".to_owned()), "disclosure", "MISSING"),
    ]
}

fn at_the_gateway() -> Vec<Case> {
    let (oldest, newest) = (one_of("segment", "last_seq"), one_of("segment", "last_seq DESC"));
    vec![
        (flip("segment", "encoded", &oldest), "segment", "SIGNATURE_INVALID"),
        (sql(format!("DELETE FROM segment WHERE {oldest}")), "segment", "MISSING"),
        (sql(format!("DELETE FROM segment WHERE {newest}")), "stream", "OTHER_HISTORY"),
        (flip("receipt", "signed", "seq > 1000"), "receipt", "SIGNATURE_INVALID"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_row_that_was_edited_is_named_by_the_audit() {
    let world = written().await;
    let (a, b, gateway) = (world.path("a"), world.path("b"), world.path("gateway"));
    for data in [&a, &b, &gateway] {
        assert_eq!(findings(data), [], "{} is as it was written", data.display());
    }
    let (_, reports) = verify(&a);
    let of = |name: &str| reports.iter().find(|report| report["store"] == name).unwrap();
    assert!(of(A)["rows"].as_u64().unwrap() > 4_000);
    assert!(of(COUNTY)["rows"].as_u64().unwrap() >= 2);

    for (data, store, cases) in [
        (&a, format!("regions/{A}/store.sqlite"), at_the_origin()),
        (&b, format!("regions/{B}/store.sqlite"), at_the_recipient()),
        (&gateway, "gateway.sqlite".to_owned(), at_the_gateway()),
    ] {
        for (number, (edit, table, what)) in cases.iter().enumerate() {
            let found = edited(data, &store, edit);
            let first = found.first();
            let (in_table, place, of_kind) =
                first.unwrap_or_else(|| panic!("{store}, case {number}: nothing was found"));
            let found = format!("{store}, case {number}: {found:?}");
            assert_eq!((&in_table[..], &of_kind[..]), (*table, *what), "{found}");
            if (*table, *what) == ("view", "CHANGED") {
                assert_eq!(*place, 700, "{found}");
            }
        }
    }
}
