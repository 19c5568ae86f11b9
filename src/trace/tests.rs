use super::*;
use proptest::prelude::*;

fn read(text: &str) -> Result<Vec<TraceRow>, String> {
    let mut reader = Reader::new(text.as_bytes(), None).map_err(told)?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row().map_err(told)? {
        rows.push(row);
    }
    Ok(rows)
}

/// "LINE:COLUMN title: label; help".
fn told(error: ReadError) -> String {
    let ReadError::Fault(fault) = error else { panic!("{error:?}") };
    let line = fault.line.as_ref().map_or(0, |(line, _)| *line);
    let Fault { title, range, label, help, .. } = *fault;
    format!("{line}:{} {title}: {label}; {help}", range.start + 1)
}

/// (milliseconds, input, output).
fn plain(rows: &[TraceRow]) -> Vec<(u64, u32, u32)> {
    rows.iter().map(|row| (row.at.as_nanos() / 1_000_000, row.input, row.output)).collect()
}

#[test]
fn azure_times_count_from_the_first_row_over_the_leap_day() {
    let rows = read(include_str!("../../tests/traces/azure-2023.csv")).unwrap();
    assert_eq!(plain(&rows), [(0, 700, 20), (750, 1200, 35), (750, 90, 250), (86_401_500, 15, 7)]);
    assert_eq!(rows[3].at.as_nanos(), 86_401_500_000_100, "seven decimals");
    let rows = read(include_str!("../../tests/traces/azure-2024.csv")).unwrap();
    assert_eq!(plain(&rows), [(0, 2162, 5), (1007, 40, 110)], "zero tokens are left out");
}

#[test]
fn both_layouts_of_burstgpt_are_read_by_their_headers() {
    for text in [
        include_str!("../../tests/traces/burstgpt-1.csv"),
        include_str!("../../tests/traces/burstgpt-2.csv"),
    ] {
        let rows = read(text).unwrap();
        assert_eq!(plain(&rows), [(0, 472, 18), (56_000, 1087, 230)]);
        assert!(rows.iter().all(|row| row.session.is_none()));
    }
}

#[test]
fn mooncake_rows_keep_their_block_ids() {
    let rows = read(include_str!("../../tests/traces/mooncake.jsonl")).unwrap();
    assert_eq!(plain(&rows), [(0, 1200, 50), (1500, 1700, 10), (3000, 600, 99)]);
    assert_eq!(rows[1].blocks, [0, 1, 3, 4]);
}

#[test]
fn our_own_rows_are_the_same_as_csv_and_as_json() {
    let csv = read(include_str!("../../tests/traces/own.csv")).unwrap();
    let json = read(include_str!("../../tests/traces/own.jsonl")).unwrap();
    assert_eq!(csv, json);
    assert_eq!(plain(&csv), [(1000, 500, 40), (1250, 900, 10), (2500, 700, 60)]);
    assert_eq!(csv[0].session, csv[2].session);
    assert_eq!((csv[1].session, csv[1].prefix), (None, None));
    assert_eq!((csv[0].prefix_tokens, csv[1].priority), (300, 5));
    assert_eq!([csv[0].tenant, csv[1].tenant, csv[2].tenant], [0, 1, 0]);
}

#[test]
fn quotes_blanks_and_whole_floats_are_no_obstacle() {
    let rows =
        read("\u{feff}\"arrival_s\" , input_tokens,output_tokens\r\n 0.5 ,\"12\", 3.0\r\n\r\n");
    assert_eq!(plain(&rows.unwrap()), [(500, 12, 3)]);
}

#[test]
fn what_is_wrong_is_told_with_line_and_column() {
    let head = "arrival_s,input_tokens,output_tokens\n";
    let cases: &[(&str, &[&str])] = &[
        ("", &["the trace is empty", "header line"]),
        ("# only this\n\n", &["the trace is empty"]),
        ("a,b\n1,2\n", &["1:1 the trace has no column of prompt lengths", "input_tokens"]),
        ("arrival_s,input_tokens\n", &["no column of output lengths"]),
        ("input_tokens,output_tokens\n1,2\n", &["no column of times", "workload.lengths.dataset"]),
        ("arrival_s,input_tokens,output_tokens,prefix\n", &["prefix_tokens"]),
        ("0,1,2\n0,1,x\n", &["3:5 `output_tokens` cannot be read", "this is \"x\""]),
        ("0,1,2\n0,1\n", &["3:1 a row has no `output_tokens`", "2 of 3 columns"]),
        ("0,1,2\n0,1,024,2\n", &["3:9 a row has more fields", "4 fields for 3 columns"]),
        ("arrival_s,input_tokens,output_tokens,input_tokens\n", &["1:38 ", "two columns"]),
        ("0,1,2\n0,,2\n", &["3:3 a row has no `input_tokens`", "hole"]),
        ("0,1,-2\n", &["2:5 `output_tokens` cannot be read"]),
        ("0,1,2.5\n", &["2:5 `output_tokens` cannot be read"]),
        ("0,1,9999999999\n", &["longer than any model takes"]),
        ("-0.5,1,2\n", &["2:1 a time is negative"]),
        ("nan,1,2\n", &["2:1 a time is out of range"]),
        ("soon,1,2\n", &["2:1 `arrival_s` cannot be read", "\"soon\""]),
        ("5,1,2\n4.5,1,2\n", &["3:1 the times of the trace are not in order", "0.5 s earlier"]),
        ("2024-02-30 00:00:00,1,2\n", &["cannot be read"]),
        ("{\"arrival_s\": 0, \"input_tokens\": 1}\n", &["1:1 a row has no `output_tokens`"]),
        ("{\"arrival_s\": 0, \"input_tokens\": }\n", &["1:34 a row cannot be read"]),
        (
            "{\"timestamp\": -3, \"input_length\": 1, \"output_length\": 1}",
            &["1:15 a time is negative"],
        ),
        ("{\"input_length\": 1, \"output_length\": 1}", &["no `arrival_s`", "timestamp"]),
        ("{\"dataset\": [\n", &["data set and no trace", "workload.lengths.dataset"]),
        ("[{\"id\": 1}]", &["a list and no trace"]),
    ];
    for (text, said) in cases {
        let csv_row = text.starts_with(|c: char| c.is_ascii_digit() || "-ns".contains(c));
        let text = if csv_row { format!("{head}{text}") } else { (*text).to_owned() };
        let message = read(&text).expect_err(&text);
        for part in *said {
            assert!(message.contains(part), "{text:?}: no {part:?} in {message}");
        }
    }
    let binary = Reader::new(&b"arrival_s,\xff\xfe\n"[..], None).map(|_| ()).map_err(told);
    assert!(binary.unwrap_err().contains("1:1 the trace is not text: no UTF-8 at byte 10"));
}

#[test]
fn the_rest_of_a_line_that_is_too_long_is_no_row() {
    let text = format!("arrival_s,input_tokens,output_tokens\n0,1,{}\n", "5".repeat(9 << 20));
    let window = Window { start: SimTime::ZERO, end: SimTime::MAX };
    let faults = scan(text.as_bytes(), None, window, 512).unwrap_err().unwrap();
    assert_eq!(faults.len(), 1, "{:?}", faults.last());
}

#[test]
fn a_scan_counts_the_window_and_finds_its_hole() {
    let text = "arrival_s,input_tokens,output_tokens\n0,1,1\n1,1,1\n2,1,0\n90,1,1\n91,1,1\n";
    let at = |s: u64| SimTime::from_nanos(s * 1_000_000_000);
    let window = |start, end| Window { start: at(start), end: at(end) };
    let all = scan(text.as_bytes(), None, window(0, 1000), 512).unwrap();
    assert_eq!((all.rows, all.skipped, all.window_rows), (4, 1, 4));
    let hole = all.hole.unwrap();
    assert_eq!((hole.from, hole.length.as_secs_f64()), (at(1), 89.0));
    let part = scan(text.as_bytes(), None, window(1, 91), 512).unwrap();
    assert_eq!((part.window_first, part.window_last), (Some(at(1)), Some(at(90))));
    let faults = scan(
        "arrival_s,input_tokens,output_tokens\nx,1,1\n1,y,1\n".as_bytes(),
        None,
        window(0, 9),
        512,
    );
    assert_eq!(faults.unwrap_err().unwrap().len(), 2, "all faults in one go");
}

#[test]
fn ids_of_blocks_must_be_as_many_as_the_prompt_has_blocks() {
    let all = Window { start: SimTime::ZERO, end: SimTime::MAX };
    let scanned = |ids: &str, block: u32| {
        let row = format!(
            r#"{{"timestamp": 0, "input_length": 1100, "output_length": 1, "hash_ids": {ids}}}"#
        );
        scan(row.as_bytes(), None, all, block).map_err(|faults| Box::new(faults.unwrap().remove(0)))
    };
    for (ids, block) in [("[1, 2, 3]", 512), ("[1, 2]", 512), ("[]", 512), ("[7]", 1100)] {
        assert_eq!(scanned(ids, block).unwrap().rows, 1, "{ids} {block}");
    }
    let fault = scanned("[1, 2, 3]", 1024).unwrap_err();
    let line = fault.line.unwrap().1;
    assert!(line[fault.range].starts_with("[1"), "{}", fault.label);
    assert_eq!(fault.label, "3 ids, and 1100 tokens are 2 blocks of 1024");
    assert!(fault.help.contains("hash-block-size = 512"), "{}", fault.help);
    assert!(scanned("[1]", 512).unwrap_err().help.contains("hash-block-size = 1024"));
    assert!(scanned("[1, 2, 3, 4, 5, 6, 7]", 512).unwrap_err().help.starts_with("give one id"));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let window = Window { start: SimTime::ZERO, end: SimTime::MAX };
        let _ = scan(bytes.as_slice(), None, window, 512);
        let _ = scan([b"Timestamp,input_tokens,output_tokens\n", bytes.as_slice()].concat().as_slice(), None, window, 512);
    }

    #[test]
    fn no_row_makes_the_reader_panic(
        rows in prop::collection::vec("[-0-9.,:\"e é{}\\[\\]nul]{0,30}|\\{\"(timestamp|hash_ids|arrival_s)\": ?[-0-9e\\[\\],]{0,9}\\}", 0..9),
        json: bool,
    ) {
        let head = if json { "{}" } else { "timestamp,input_tokens,output_tokens,session,tenant" };
        let text = format!("{head}\n{}", rows.join("\n"));
        let window = Window { start: SimTime::ZERO, end: SimTime::MAX };
        let _ = scan(text.as_bytes(), None, window, 512);
    }
}
