//! The examples for batch jobs: `track_shipments`, `download` and `with_serde`.

use std::fs;
use std::process::{Command, Output};

#[path = "support/sandbox/mod.rs"]
mod sandbox;
#[path = "support/scratch/mod.rs"]
mod scratch;
use sandbox::{closed_url, run_with_input, Fault, Gate, Place, Sandbox};
use scratch::Directory;

fn output(command: &mut Command) -> Output {
    command.output().expect("cargo build --examples")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace("\r\n", "\n")
}

/// Runs `track_shipments`: its exit status, standard output and standard error.
fn track(command: &mut Command, input: &str) -> (i32, String, String) {
    let output = run_with_input(command, input);
    let status = output.status.code().expect("no signal");
    (status, text(&output.stdout), text(&output.stderr))
}

#[test]
fn list_of_shipments_is_tracked_in_order() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let file = directory.file("list");
    fs::write(&file, "\u{feff}S505186107\r\n\r\n  SHA45176420 \r\n").unwrap();
    // The encoding of `>` in Windows PowerShell.
    let utf16 = directory.file("Göteborg 1.txt");
    let units = "\u{feff}GOT45176533\r\n".encode_utf16();
    fs::write(&utf16, units.flat_map(u16::to_le_bytes).collect::<Vec<_>>()).unwrap();
    // The response to the first request arrives last.
    let gate = Gate::new();
    sandbox.next(Place::Api, Fault::Wait(gate.clone()));
    let mut command = sandbox.example("track_shipments");
    command.args(["--csv", "--jobs", "3", "S505185992", "--file"]);
    let command = command.arg(&file).arg("--file").arg(&utf16).arg("-");
    let (status, rows, errors) = std::thread::scope(|scope| {
        scope.spawn(|| {
            sandbox.await_count(Place::Api, 5);
            gate.open();
        });
        track(command, "S1\n")
    });
    assert_eq!(
        rows,
        "SHIPMENT,HOUSE BILL,FROM,TO,DEPARTURE,ARRIVAL,LAST MILESTONE\n\
         S505185992,PAR45176295,Paris CDG,Atlanta ATL,2026-03-02 10:25,2026-03-02 20:10,\"Delivered, Atlanta\"\n\
         S505186107,MIL45176311,Genova,New York,2026-02-19 22:00,2026-03-09 06:00,\"Customs cleared, New York\"\n\
         S505186240,SHA45176420,Shanghai,Hamburg,2026-02-08 16:00,2026-03-14 04:00,\"Transshipped, Singapore\"\n\
         S505186355,GOT45176533,Göteborg,Chicago ORD,2026-03-05 07:45,2026-03-05 19:20,\"Departed, Göteborg\"\n\
         S1,,not found,,,,\n"
    );
    // One shipment was not found.
    assert_eq!(status, 1);
    assert!(errors.contains("shipments: 5 of 5 in "), "{errors}");
    assert!(errors.ends_with("failed: 1\ntokens: 1, connections: 6, retries: 0\n"), "{errors}");
}

#[test]
fn failed_shipment_costs_only_its_row() {
    let sandbox = Sandbox::start();
    let mut command = sandbox.example("track_shipments");
    let command = command.args(["--jobs", "1", "S505185992", "PAR45176295", "S505186107"]);
    let faulty = [
        Fault::Response(500, vec![], vec![]),
        Fault::Response(200, vec![], b"{}".to_vec()),
        Fault::Response(503, vec![], vec![]),
    ];
    for fault in faulty {
        sandbox.next(Place::Api, fault);
    }
    let (status, rows, errors) = track(command, "");
    let rows: Vec<_> = rows.lines().map(|row| row.split_whitespace().next()).collect();
    assert_eq!(
        rows,
        [Some("SHIPMENT"), Some("S505185992"), Some("PAR45176295"), Some("S505186107")]
    );
    assert_eq!(status, 1);
    assert!(errors.contains("S505185992: POST "), "{errors}");
    assert!(errors.contains("PAR45176295: POST "), "{errors}");
    assert!(errors.ends_with("failed: 2\ntokens: 1, connections: 5, retries: 1\n"), "{errors}");
    let good = track(sandbox.example("track_shipments").arg("S505185992"), "");
    assert_eq!(good.0, 0, "{}", good.2);
}

#[test]
fn fault_of_all_shipments_stops_the_run() {
    let sandbox = Sandbox::start();
    let numbers: Vec<_> = (0..200).map(|i| format!("S{i}\n")).collect();
    let run = |name: &str, value: &str, advice: &str| {
        let mut command = sandbox.example("track_shipments");
        let command = command.env(name, value).arg("-");
        let (status, rows, errors) = track(command, &numbers.concat());
        assert_eq!((status, rows.lines().count()), (1, 1), "{errors}");
        assert!(errors.ends_with(&format!("\nadvice: {advice}\n")), "{errors}");
    };
    run("JAS_CLIENT_SECRET", "wrong", "check JAS_CLIENT_ID and JAS_CLIENT_SECRET");
    assert_eq!((sandbox.count(Place::Token), sandbox.count(Place::Api)), (1, 0));
    run("JAS_URL", &closed_url(), "check JAS_URL and the network");
    run("JAS_API_KEY", "wrong", "check JAS_API_KEY and what your subscription covers, or ask JAS");
    // Each of the four threads sends one request at most.
    assert!(sandbox.count(Place::Api) <= 4);
}

#[test]
fn wrong_usage_sends_no_request() {
    let sandbox = Sandbox::start();
    for (arguments, message) in [
        (&[][..], "no numbers to track; see --help"),
        (&["--jobs", "0", "S1"], "--jobs needs a number from 1 to 100"),
        (&["--retries", "many", "S1"], "--retries needs a number"),
        (&["--jobs"], "--jobs needs a number from 1 to 100"),
        (&["--wat"], "--wat is not understood; see --help"),
        (&["--file"], "--file needs the name of a file"),
        (&["--file", "/no/such/file"], "/no/such/file: "),
    ] {
        let mut command = sandbox.example("track_shipments");
        let (status, rows, errors) = track(command.args(arguments), "");
        assert_eq!((status, rows.as_str()), (2, ""), "{arguments:?}");
        assert!(errors.starts_with(&format!("error: {message}")), "{errors}");
    }
    let mut command = sandbox.example("track_shipments");
    let (status, _, errors) = track(command.env("JAS_URL", "api.jas.com").arg("S1"), "");
    assert_eq!(status, 2);
    let message = "error: the environment variable JAS_URL does not start with https://\n";
    assert_eq!(errors, message);
    assert!(sandbox.requests().is_empty());
}

#[test]
fn complete_download_is_renamed() {
    let sandbox = Sandbox::start();
    let directory = Directory::new();
    let (file, part) = (directory.file("document"), directory.file("document.part"));
    let path = "/documents/v1/large?bytes=3000000";
    let mut command = sandbox.example("download");
    let command = command.arg(path).arg(&file);

    sandbox.next(Place::Api, Fault::Truncate(1_000_000));
    let truncated = output(command);
    assert_eq!(truncated.status.code(), Some(1));
    let errors = text(&truncated.stderr);
    assert!(errors.contains("\r33 %\nerror: GET "), "{errors}");
    assert!(!file.exists() && fs::metadata(&part).unwrap().len() < 1_000_000);

    let whole = output(command);
    let errors = text(&whole.stderr);
    assert!(whole.status.success(), "{errors}");
    assert!(errors.starts_with("\r0 %\r1 %\r2 %") && errors.ends_with("\r99 %\r100 %\n"));
    assert!(!part.exists());
    assert_eq!(fs::metadata(&file).unwrap().len(), 3_000_000);

    sandbox.next(Place::Api, Fault::Chunked(65_536));
    let unknown = output(command);
    assert!(text(&unknown.stderr).ends_with("\r2 MB\r3 MB\n"));
}

#[test]
fn serde_reads_and_writes_json_and_xml() {
    let sandbox = Sandbox::start();
    let mut command = sandbox.example("with_serde");
    command.arg("PO-4711");
    let output_of = output(&mut command);
    assert_eq!(text(&output_of.stderr), "");
    assert_eq!(
        text(&output_of.stdout),
        "PO-4711 is booked: B700000001\n\
         S505185992 arrives 2026-03-02T20:10:00Z, 3 milestones\n\
         S505186107 arrives 2026-03-09T06:00:00Z, at last: Customs cleared\n"
    );
    let requests = sandbox.requests();
    assert_eq!(requests[1].content, br#"{"reference":"PO-4711","pieces":3}"#);
    let query = b"<ShipmentQuery><HouseBill>MIL45176311</HouseBill></ShipmentQuery>";
    assert_eq!(requests[3].content, query);
    // A booking whose response has another shape is not lost.
    let other = Fault::Response(201, vec![], br#"{"number":7}"#.to_vec());
    sandbox.next(Place::Api, other);
    let booked = text(&output(&mut command).stdout);
    assert!(booked.starts_with("PO-4711 is booked: {\"number\":7} (missing field"), "{booked}");
}
