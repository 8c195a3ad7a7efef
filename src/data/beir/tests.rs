use std::fs;

use tempfile::TempDir;

use super::*;

const CORPUS: &str = r#"{"_id": "d1", "title": "One", "text": "first"}
{"_id": 2, "title": "", "text": " second "}
{"_id": "d3", "text": ""}
"#;
const QUERIES: &str = r#"{"_id": "q1", "text": "a"}
{"_id": "q2", "text": "b", "metadata": {"x": [1]}}
{"_id": 3, "text": "c"}
{"_id": "q4", "text": "not judged"}
{"_id": "q5", "text": "  "}
"#;
const QRELS: &str =
    "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\t2\t0\nq2\td1\t0\n3\t2\t1\nq5\td1\t1\n";

fn folder(corpus: impl AsRef<[u8]>, queries: impl AsRef<[u8]>, qrels: impl AsRef<[u8]>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("qrels")).unwrap();
    fs::write(dir.path().join("corpus.jsonl"), corpus).unwrap();
    fs::write(dir.path().join("queries.jsonl"), queries).unwrap();
    fs::write(dir.path().join("qrels/test.tsv"), qrels).unwrap();
    dir
}

/// The error of loading `dir`, checked to be one line that holds all of `parts`.
#[track_caller]
fn fault(dir: impl AsRef<Path>, parts: &[&str]) {
    let message = Collection::load(dir, "test").unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn a_small_folder() {
    let dir = folder(CORPUS, QUERIES, QRELS);
    let c = Collection::load(dir.path(), "test").unwrap();
    assert_eq!(c.name, dir.path().file_name().unwrap().to_str().unwrap());
    let ids: Vec<_> = c.corpus.iter().map(|d| d.id.as_str()).collect();
    assert_eq!(ids, ["d1", "2", "d3"]);
    let texts: Vec<_> = c
        .corpus
        .iter()
        .map(|d| d.text_for_encoder().into_owned())
        .collect();
    assert_eq!(texts, ["One first", "second", ""]);
    let ids: Vec<_> = c.queries.iter().map(|q| q.id.as_str()).collect();
    assert_eq!(ids, ["q1", "3"]);
    assert_eq!(
        c.qrels,
        Qrels::from_iter([("q1", "d1", 2), ("q1", "2", 0), ("3", "2", 1)])
    );
    let notes = CollectionNotes {
        unjudged_queries: 1,
        empty_queries: 1,
        queries_without_relevant: 1,
        empty_documents: 1,
        ..Default::default()
    };
    assert_eq!(c.notes, notes);
    assert_eq!(c.notes.lines().len(), 4);
    assert_eq!(
        c.notes.lines()[3],
        "documents with neither title nor text, kept: 1"
    );
}

#[test]
fn title_and_text_are_joined_only_where_both_are() {
    for (title, text, expected) in [
        ("T", "x", "T x"),
        ("", " x\n", "x"),
        ("  ", "x", "x"),
        ("T ", "", "T"),
        (" T", "x ", "T x"),
        ("", "", ""),
    ] {
        let document = Document {
            id: "d".into(),
            title: title.into(),
            text: text.into(),
        };
        assert_eq!(document.text_for_encoder(), expected);
    }
}

#[test]
fn byte_order_mark_crlf_blank_lines_and_no_last_line_end() {
    let plain = Collection::load(folder(CORPUS, QUERIES, QRELS).path(), "test").unwrap();
    let windows = |s: &str| format!("\u{feff}{}", s.trim_end().replace('\n', "\r\n\r\n"));
    let dir = folder(windows(CORPUS), windows(QUERIES), windows(QRELS));
    let mut odd = Collection::load(dir.path(), "test").unwrap();
    odd.name.clone_from(&plain.name);
    assert_eq!(odd, plain);
}

#[test]
fn judgements_without_a_header() {
    let (header, rows) = QRELS.split_once('\n').unwrap();
    let plain = Collection::load(folder(CORPUS, QUERIES, QRELS).path(), "test").unwrap();
    let c = Collection::load(folder(CORPUS, QUERIES, rows).path(), "test").unwrap();
    assert_eq!(c.qrels, plain.qrels);
    // A damaged first judgement is not taken for a header, and a header has its place in the first line only.
    let damaged = rows.replacen("\t2\n", "\ttwo\n", 1);
    fault(
        folder(CORPUS, QUERIES, damaged),
        &["test.tsv: line 1:", "\"two\" is not an integer"],
    );
    let twice = format!("{header}\n{QRELS}");
    fault(
        folder(CORPUS, QUERIES, twice),
        &["line 2:", "\"score\" is not an integer"],
    );
}

#[test]
fn judgements_as_trec_has_them() {
    let plain = Collection::load(folder(CORPUS, QUERIES, QRELS).path(), "test").unwrap();
    let rows: Vec<[&str; 3]> = (QRELS.lines().skip(1))
        .map(|line| line.split('\t').collect::<Vec<_>>().try_into().unwrap())
        .collect();
    let written = |between: [&str; 3], end: &str| -> String {
        let line = |[query, document, grade]: &[&str; 3]| {
            let [a, b, c] = between;
            format!("{query}{a}{b}{document}{c}{grade}{end}")
        };
        rows.iter().map(line).collect()
    };
    for (between, end) in [
        ([" ", "0 ", " "], "\n"),
        (["\t", "0\t", "\t"], "\r\n"),
        (["\t", "Q0  ", " "], " \n\n"),
    ] {
        let dir = folder(CORPUS, QUERIES, written(between, end));
        let c = Collection::load(dir.path(), "test").unwrap();
        assert_eq!(c.qrels, plain.qrels, "{between:?}");
        assert!(c.notes.lines().contains(&TREC.to_string()));
        // Under the name that TREC gives it.
        let qrels = dir.path().join("qrels");
        fs::rename(qrels.join("test.tsv"), qrels.join("dev.qrels")).unwrap();
        let c = Collection::load(dir.path(), "dev").unwrap();
        assert_eq!(c.qrels, plain.qrels);
        let error = Collection::load(dir.path(), "test").unwrap_err();
        assert!(error.to_string().contains("splits in this folder: dev"));
    }
    assert!(!plain.notes.trec_judgements);
    // Three columns whose document is called 0, and ids with spaces, are BEIR's.
    let c = Collection::load(
        folder(CORPUS, QUERIES, "q1\t0 1\t2\nq1\td1\t1\n").path(),
        "test",
    );
    let c = c.unwrap();
    assert_eq!(
        c.qrels,
        Qrels::from_iter([("q1", "0 1", 2), ("q1", "d1", 1)])
    );
}

#[test]
fn grades_are_whole_numbers_of_any_sign() {
    let qrels = "q1\td1\t2.0\nq1\t2\t-1\nq1\td3\t-2.000\nq2\td1\t+1\n3\t2\t0\n";
    let c = Collection::load(folder(CORPUS, QUERIES, qrels).path(), "test").unwrap();
    let expected = [
        ("q1", "d1", 2),
        ("q1", "2", -1),
        ("q1", "d3", -2),
        ("q2", "d1", 1),
    ];
    assert_eq!(c.qrels, Qrels::from_iter(expected));
    assert_eq!(c.notes.negative_judgements, 2);
    assert_eq!(c.notes.queries_without_relevant, 1);
    let said = "judgements below 0, not relevant like those of 0: 2";
    assert!(c.notes.lines().contains(&said.to_string()));
}

#[test]
fn what_comes_again_as_it_was_is_read_once() {
    let plain = Collection::load(folder(CORPUS, QUERIES, QRELS).path(), "test").unwrap();
    // In another order of fields, and with another way to write an id and no title.
    let again = r#"{"text": "first", "_id": "d1", "title": "One"}
{"_id": "2", "text": " second "}
"#;
    let dir = folder(
        format!("{CORPUS}{again}{again}"),
        format!("{QUERIES}{QUERIES}"),
        QRELS,
    );
    let c = Collection::load(dir.path(), "test").unwrap();
    assert_eq!((&c.corpus, &c.queries), (&plain.corpus, &plain.queries));
    assert_eq!(c.qrels, plain.qrels);
    let notes = CollectionNotes {
        repeated_documents: 4,
        repeated_queries: 5,
        ..plain.notes.clone()
    };
    assert_eq!(c.notes, notes);
    assert!(
        c.notes
            .lines()
            .contains(&"documents given again with the same text, read once: 4".into())
    );
    // Another title, or another text by so little as a space, is another document.
    for other in [
        r#"{"_id": "d1", "title": "Two", "text": "first"}"#,
        r#"{"_id": "d1", "title": "One", "text": "first "}"#,
        r#"{"_id": 2, "title": " second ", "text": ""}"#,
    ] {
        let said = "is already used in line ";
        fault(
            folder(format!("{CORPUS}{other}\n"), QUERIES, QRELS),
            &["line 4: document id", said],
        );
    }
}

#[test]
fn documents_alone_need_nothing_else() {
    let dir = folder(CORPUS, QUERIES, QRELS);
    fs::remove_dir_all(dir.path().join("qrels")).unwrap();
    fs::remove_file(dir.path().join("queries.jsonl")).unwrap();
    let (corpus, notes) = Collection::load_corpus(dir.path()).unwrap();
    assert_eq!((corpus.len(), notes.empty_documents), (3, 1));
    fs::remove_file(dir.path().join("corpus.jsonl")).unwrap();
    let error = Collection::load_corpus(dir.path()).unwrap_err().to_string();
    assert!(error.contains("corpus.jsonl: no such file"), "{error}");
    let error = Collection::load_corpus(dir.path().join("x")).unwrap_err();
    assert!(error.to_string().contains("no such folder"));
}

#[test]
fn quoted_judgements_are_read_as_beir_reads_them() {
    let quoted: String = QRELS
        .lines()
        .map(|line| {
            let fields: Vec<String> = line.split('\t').map(|f| format!("\"{f}\"")).collect();
            fields.join("\t") + "\n"
        })
        .collect();
    let mut plain = Collection::load(folder(CORPUS, QUERIES, QRELS).path(), "test").unwrap();
    let c = Collection::load(folder(CORPUS, QUERIES, &quoted).path(), "test").unwrap();
    assert_eq!(c.qrels, plain.qrels);
    // Ids with quotes come back from a folder that was written.
    for (document, id) in plain.corpus.iter_mut().zip(["\"", "\"a\" b", "c\"d"]) {
        document.id = id.into();
        plain.qrels.insert("q1", id, 1);
    }
    let dir = tempfile::tempdir().unwrap();
    plain.write(dir.path()).unwrap();
    let again = Collection::load(dir.path(), "test").unwrap();
    assert_eq!(again.qrels, plain.qrels);
    assert_eq!(again.corpus, plain.corpus);
}

#[test]
fn judgements_of_unknown_ids_are_counted() {
    let qrels =
        format!("{QRELS}q1\tnowhere\t1\nnobody\td1\t1\nnobody\t2\t1\nq2\tnowhere\t0\nq1\td1\t2\n");
    let c = Collection::load(folder(CORPUS, QUERIES, qrels).path(), "test").unwrap();
    assert_eq!(c.notes.judgements_of_unknown_documents, 1);
    assert_eq!(c.notes.judgements_of_unknown_queries, 2);
    assert_eq!(c.notes.repeated_judgements, 1);
    // What cannot be found still counts as relevant.
    assert_eq!(c.qrels.n_relevant("q1"), 2);
    assert!(c.qrels.judged("nobody").is_none());
}

#[test]
fn missing_folder_files_and_splits() {
    let dir = folder(CORPUS, QUERIES, QRELS);
    let path = dir.path();
    fault(
        path.join("nothing"),
        &[
            "nothing: no such folder",
            "corpus.jsonl, queries.jsonl and qrels/<split>.tsv",
        ],
    );
    fault(path.join("corpus.jsonl"), &["is a file, not a folder"]);
    let message = Collection::load(path, "dev").unwrap_err().to_string();
    assert!(
        message.contains("dev.tsv: no such file")
            && message.ends_with("splits in this folder: test (--split)"),
        "{message}"
    );
    let message = Collection::load(path, "../test").unwrap_err().to_string();
    assert!(message.contains("split \"../test\""), "{message}");
    fs::rename(path.join("corpus.jsonl"), path.join("corpus.jsonl.gz")).unwrap();
    fault(
        path,
        &[
            "corpus.jsonl: no such file",
            "a BEIR folder holds",
            "unpack the .gz",
        ],
    );
    fs::remove_file(path.join("corpus.jsonl.gz")).unwrap();
    fault(path, &["corpus.jsonl: no such file"]);
}

#[test]
fn judgements_are_read_by_the_names_of_their_columns() {
    let plain = Collection::load(folder(CORPUS, QUERIES, QRELS).path(), "test").unwrap();
    let (_, rows) = QRELS.split_once('\n').unwrap();
    for (header, order) in [
        ("corpus-id\tquery-id\tscore", [1, 0, 2]),
        ("Score\tcorpus_id\t\"query_id\"", [2, 1, 0]),
        ("grade\tquery\tdocument", [2, 0, 1]),
        // What a header with names of its own means is the order that BEIR has.
        ("question\tpassage\tscore", [0, 1, 2]),
    ] {
        let rows = rows.lines().map(|row| {
            let cells: Vec<&str> = row.split('\t').collect();
            order.map(|at| cells[at]).join("\t")
        });
        let text = format!("{header}\n{}\n", rows.collect::<Vec<_>>().join("\n"));
        let found = Collection::load(folder(CORPUS, QUERIES, &text).path(), "test").unwrap();
        assert_eq!(found.qrels, plain.qrels, "{header}");
        assert_eq!(found.notes, plain.notes, "{header}");
    }
}

#[test]
fn records_that_cannot_be_used() {
    let corpus = |line: &str| folder(format!("{CORPUS}{line}\n"), QUERIES, QRELS);
    fault(
        corpus(r#"{"_id": "d4", "text": "#),
        &["corpus.jsonl: line 4, column ", "EOF while parsing"],
    );
    fault(
        corpus(r#"["d4", "title", "text"]"#),
        &["line 4, column", "expected one JSON object a line"],
    );
    fault(
        corpus(r#"{"title": "", "text": "x"}"#),
        &["line 4: field \"_id\" is missing"],
    );
    fault(
        corpus(r#"{"_id": "d4", "title": ""}"#),
        &["line 4: field \"text\" is missing"],
    );
    fault(
        corpus(r#"{"_id": "d4", "text": null}"#),
        &["line 4: field \"text\" is null; expected a string"],
    );
    fault(
        corpus(r#"{"_id": "d4", "title": 7, "text": ""}"#),
        &["field \"title\" is a number"],
    );
    fault(
        corpus(r#"{"_id": 1.5, "text": ""}"#),
        &["field \"_id\" is not an integer"],
    );
    fault(
        corpus(r#"{"_id": "", "text": ""}"#),
        &["field \"_id\" is an empty string"],
    );
    // The number 2 and the string "2" are the same id.
    fault(
        corpus(r#"{"_id": "2", "text": ""}"#),
        &["line 4: document id \"2\" is already used in line 2"],
    );
    let other = QUERIES.replace("\"a\"", "\"A\"");
    fault(
        folder(CORPUS, format!("{QUERIES}\n{other}"), QRELS),
        &["queries.jsonl: line 7: query id \"q1\" is already used in line 1"],
    );
    let mut latin1 = CORPUS.as_bytes().to_vec();
    latin1.extend(b"{\"_id\": \"d4\", \"text\": \"caf\xe9\"}\n");
    fault(
        folder(latin1, QUERIES, QRELS),
        &["corpus.jsonl: line 4: not UTF-8 at byte 27 "],
    );
    fault(
        folder("", QUERIES, QRELS),
        &["corpus.jsonl: the corpus has no documents"],
    );
}

#[test]
fn judgements_that_cannot_be_used() {
    let qrels = |line: &str| folder(CORPUS, QUERIES, format!("{QRELS}{line}\n"));
    fault(
        qrels("q1\td1"),
        &["test.tsv: line 7: expected 3 columns", "got 2"],
    );
    fault(qrels("q1 0 d1 1"), &["line 7: expected 3 columns", "got 1"]);
    fault(qrels("q1\td1\t2\t3"), &["got 4"]);
    for score in ["0.5", "1.", "1.01", ".0", "1e0", "", "NaN"] {
        let said = format!("line 7: score {score:?} is not an integer");
        fault(qrels(&format!("q1\td3\t{score}")), &[&said]);
    }
    let trec = |line: &str| folder(CORPUS, QUERIES, format!("q1 0 d1 1\n{line}\n"));
    fault(trec("q1 d1 1"), &["line 2: expected 4 columns", "got 3"]);
    fault(
        trec("q1 0 d3 x"),
        &["line 2: score \"x\" is not an integer"],
    );
    fault(trec("q1 0 d1 2"), &["line 2:", "judged 2, but 1"]);
    fault(qrels("\td3\t1"), &["line 7: an id is empty"]);
    // BEIR's own reader takes what follows for one field.
    for row in ["\"q1\td3\t1\nq1\td1\t2", "q1\t\"d\"3\"\t1", "q1\td3\t\""] {
        fault(qrels(row), &["test.tsv: line 7: a quote opens a field"]);
    }
    fault(
        qrels("q1\td3\t1\rq1\td1\t2"),
        &["line 7: holds a carriage return"],
    );
    fault(qrels("q1\td3\0\t1"), &["line 7: holds a NUL byte"]);
    fault(
        qrels("q1\td1\t1"),
        &[
            "line 7:",
            "\"q1\"",
            "\"d1\"",
            "judged 1, but 2 in an earlier line",
        ],
    );
    fault(
        folder(CORPUS, QUERIES, "query-id\tcorpus-id\tscore\n"),
        &["test.tsv: holds no judgements"],
    );
    fault(
        folder(CORPUS, QUERIES, "q1\td1\t0\nq9\td1\t1\n"),
        &["no query is left to evaluate: of 2 judged queries"],
    );
}

#[test]
fn written_folders_read_back() {
    let mut c = Collection::load(folder(CORPUS, QUERIES, QRELS).path(), "test").unwrap();
    c.name = "again".into();
    c.corpus[2].text = "quote \" tab \t line \n \u{2028} é".into();
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("new/again");
    c.notes = CollectionNotes::default();
    c.write(&target).unwrap();
    assert_eq!(Collection::load(&target, "test").unwrap(), c);
    // Writing again replaces, and no temporary file stays behind.
    c.corpus.truncate(2);
    c.write(&target).unwrap();
    assert_eq!(Collection::load(&target, "test").unwrap(), c);
    assert_eq!(fs::read_dir(&target).unwrap().count(), 3);
    assert_eq!(fs::read_dir(target.join("qrels")).unwrap().count(), 1);

    c.qrels.insert("q1", "with\ttab", 1);
    let message = c.write(&target).unwrap_err().to_string();
    assert!(
        message.contains("\"with\\ttab\" cannot be written"),
        "{message}"
    );
    assert!(
        Collection::load(&target, "test").is_ok(),
        "a refused write leaves the folder as it was"
    );
}

#[test]
#[cfg(unix)]
fn written_files_have_ordinary_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let dir = folder(CORPUS, QUERIES, QRELS);
    let ordinary = fs::metadata(dir.path().join("corpus.jsonl"))
        .unwrap()
        .permissions()
        .mode();
    Collection::load(dir.path(), "test")
        .unwrap()
        .write(dir.path())
        .unwrap();
    let written = fs::metadata(dir.path().join("corpus.jsonl"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(format!("{written:o}"), format!("{ordinary:o}"));
}

#[test]
#[ignore = "needs NEARMISS_DATA, a folder with beir/scifact"]
fn real_collections() {
    let data = std::env::var_os("NEARMISS_DATA").expect("NEARMISS_DATA");
    let beir = Path::new(&data).join("beir");
    let scifact = Collection::load(beir.join("scifact"), "test").unwrap();
    assert_eq!(scifact.name, "scifact");
    assert_eq!((scifact.corpus.len(), scifact.queries.len()), (5183, 300));
    assert_eq!(
        (scifact.qrels.n_queries(), scifact.qrels.n_judgements()),
        (300, 339)
    );
    let expected = CollectionNotes {
        unjudged_queries: 809,
        ..Default::default()
    };
    assert_eq!(scifact.notes, expected);
    for entry in fs::read_dir(beir).unwrap() {
        let c = Collection::load(entry.unwrap().path(), "test").unwrap();
        let sizes = (c.corpus.len(), c.queries.len(), c.qrels.n_judgements());
        println!(
            "{}: {sizes:?} documents, queries, judgements; {:?}",
            c.name,
            c.notes.lines()
        );
    }
}
