use std::path::Path;

use super::*;
use crate::dataset::{FinishReason, Known, LengthDataset, Split};
use crate::error::Result;
use crate::table::Format;

fn columns() -> TableColumns {
    TableColumns {
        response_tokens: "n".into(),
        ..TableColumns::default()
    }
}

fn name(name: &str) -> Option<String> {
    Some(name.to_string())
}

fn table(text: &str, change: impl FnOnce(&mut TableImport)) -> Result<(Imported, LengthDataset)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.csv");
    std::fs::write(&path, text).unwrap();
    let mut import = TableImport {
        path,
        format: Format::Csv,
        columns: columns(),
        arrival_unit: ArrivalUnit::Seconds,
        max_new_tokens: None,
        temperature: None,
        split: None,
        model: "m".into(),
        by_flags: true,
    };
    change(&mut import);
    let out = dir.path().join("out.parquet");
    let imported = import_table(&import, &out);
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, 1 + usize::from(imported.is_ok()), "half-written");
    Ok((imported?, LengthDataset::read_parquet(&out)?))
}

#[test]
fn every_column_is_taken() {
    let text = "n,p,t,i,id,c,s,k,f,r,a\n\
                5,3,0.7,\"say, it\",x,cat,train,2,max_tokens,done,1.5\n\
                9,4,0.7,\"say, it\",x,,train,3,stop,,0.5\n";
    let (imported, dataset) = table(text, |import| {
        import.columns = TableColumns {
            response_tokens: "n".into(),
            instruction: name("i"),
            id: name("id"),
            category: name("c"),
            split: name("s"),
            sample: name("k"),
            temperature: name("t"),
            prompt_tokens: name("p"),
            finish_reason: name("f"),
            response: name("r"),
            arrival: name("a"),
        };
        import.max_new_tokens = Some(16);
    })
    .unwrap();
    assert_eq!(
        (imported.instructions, imported.samples, imported.censored),
        (1, 2, 1)
    );
    assert_eq!(imported.finish_reasons, Known::Recorded);
    let first = &dataset.samples[0];
    assert_eq!(
        (first.instruction_id.as_str(), first.instruction.as_str()),
        ("x", "say, it")
    );
    assert_eq!((first.sample, first.temperature), (2, 0.7));
    assert_eq!((first.prompt_tokens, first.response_tokens), (3, 5));
    assert_eq!(
        (first.category.as_deref(), first.split),
        (Some("cat"), Some(Split::Train))
    );
    assert_eq!(first.finish_reason, FinishReason::Length);
    assert_eq!(first.response.as_deref(), Some("done"));
    // Counted from the earliest request, which is the second row.
    assert_eq!(first.arrival_s, Some(1.0));
    let second = &dataset.samples[1];
    assert_eq!(
        (second.arrival_s, &second.response, &second.category),
        (Some(0.0), &None, &None)
    );
    assert_eq!(dataset.provenance.max_new_tokens, 16);
    assert_eq!(dataset.provenance.finish_reasons, Known::Recorded);
    assert_eq!(dataset.provenance.temperatures, Known::Recorded);
}

#[test]
fn rows_of_one_text_are_samples_and_rows_without_stand_alone() {
    let text = "n,i\n5,a\n6,b\n7.0,a\n";
    let (imported, dataset) = table(text, |import| import.columns.instruction = name("i")).unwrap();
    assert_eq!((imported.instructions, imported.samples), (2, 3));
    let rows: Vec<_> = dataset
        .samples
        .iter()
        .map(|s| (s.instruction_id.as_str(), s.sample, s.response_tokens))
        .collect();
    assert_eq!(rows, [("0", 0, 5), ("1", 0, 6), ("0", 1, 7)]);
    let (imported, dataset) = table("n\n5\n5\n", |_| {}).unwrap();
    assert_eq!(imported.instructions, 2);
    assert_eq!(dataset.samples[1].instruction_id, "1");
    assert_eq!(dataset.samples[1].instruction, "");
}

#[test]
fn what_is_not_known_is_marked() {
    let (imported, dataset) = table("n\n5\n0\n600\n512\n", |_| {}).unwrap();
    assert_eq!((imported.samples, imported.without_response), (3, 1));
    assert_eq!(
        (imported.censored, imported.finish_reasons),
        (0, Known::Assumed)
    );
    assert_eq!(dataset.provenance.finish_reasons, Known::Assumed);
    assert_eq!(dataset.provenance.temperatures, Known::Assumed);
    assert_eq!(dataset.provenance.max_new_tokens, 0);

    let (imported, dataset) = table("n\n5\n600\n512\n", |import| {
        import.max_new_tokens = Some(512);
        import.temperature = Some(0.7);
    })
    .unwrap();
    assert_eq!((imported.censored, imported.clipped), (2, 1));
    assert_eq!(dataset.provenance.finish_reasons, Known::Inferred);
    assert_eq!(dataset.provenance.temperatures, Known::Recorded);
    let lengths: Vec<u32> = dataset.samples.iter().map(|s| s.response_tokens).collect();
    assert_eq!(lengths, [5, 512, 512]);
}

#[test]
fn mistakes_name_their_line_and_leave_nothing() {
    let all = |import: &mut TableImport| {
        import.columns = TableColumns {
            response_tokens: "n".into(),
            id: name("id"),
            instruction: name("i"),
            temperature: name("t"),
            sample: name("k"),
            finish_reason: name("f"),
            split: name("s"),
            arrival: name("a"),
            ..TableColumns::default()
        }
    };
    let header = "n,id,i,t,k,f,s,a\n4,x,text,0,0,stop,test,0\n";
    for (row, named) in [
        ("-4,y,b,0,0,stop,test,0", "`n` is negative (`-4`)"),
        ("99999999999,y,b,0,0,stop,test,0", "at most 10,000,000"),
        ("4.5,y,b,0,0,stop,test,0", "not a whole number"),
        ("NaN,y,b,0,0,stop,test,0", "not a whole number"),
        ("many,y,b,0,0,stop,test,0", "`many`"),
        (",y,b,0,0,stop,test,0", "`n` is empty"),
        ("4,,b,0,0,stop,test,0", "`id` is empty"),
        ("4,y,,0,0,stop,test,0", "`i` is empty"),
        ("4,y,b,NaN,0,stop,test,0", "not a temperature"),
        ("4,y,b,-1,0,stop,test,0", "not a temperature"),
        ("4,y,b,,0,stop,test,0", "not a temperature"),
        ("4,y,b,0,0,because,test,0", "`because`"),
        ("4,y,b,0,0,stop,dev,0", "`dev`"),
        ("4,y,b,0,0,stop,test,soon", "`soon`"),
        ("4,y,b,0,0,stop,test,NaN", "no point in time"),
        ("4,x,text,0,0,stop,test,0", "sample 0"),
        (
            "4,x,other,0,1,stop,test,0",
            "the id `x` occurred with another text",
        ),
        ("4,x,text,0,1,stop,train,0", "another split"),
    ] {
        let message = table(&format!("{header}{row}\n"), all)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("line 3") && message.contains(named),
            "{named}: {message}"
        );
        assert!(message.contains("t.csv"), "{message}");
    }
    let message = table("n,b\n", |_| {}).unwrap_err().to_string();
    assert!(message.contains("no responses"), "{message}");
    let message = table("m,b\n1,2\n", |_| {}).unwrap_err().to_string();
    assert!(
        message.contains("`n` (--response-tokens-column): it has `m`, `b`"),
        "{message}"
    );
}

#[test]
fn arrivals_of_every_kind() {
    let arrivals = |unit, cells: [&str; 2]| {
        let text = format!("n,a\n1,{}\n1,{}\n", cells[0], cells[1]);
        let (_, dataset) = table(&text, |import| {
            import.columns.arrival = name("a");
            import.arrival_unit = unit;
        })
        .unwrap();
        dataset.samples[1].arrival_s.unwrap()
    };
    use ArrivalUnit::*;
    assert_eq!(arrivals(Seconds, ["1700000000.25", "1700000001.5"]), 1.25);
    assert_eq!(arrivals(Milliseconds, ["5", "1505"]), 1.5);
    assert_eq!(
        arrivals(Nanoseconds, ["1700000000000000001", "1700000000000000003"]),
        2e-9
    );
    let dates = ["2023-11-16 23:59:59.6805900", "2023-11-17 00:00:00.6805901"];
    assert_eq!(arrivals(Seconds, dates), 1.0000001);
    let zones = ["2024-05-10T00:00:00+02:00", "2024-05-09T22:00:01.5Z"];
    assert_eq!(arrivals(Seconds, zones), 1.5);
}

#[test]
fn traces_are_read_as_published() {
    let dir = tempfile::tempdir().unwrap();
    let read = |trace: Trace, text: &str, limit| {
        let path = dir.path().join("trace");
        std::fs::write(&path, text).unwrap();
        let out = dir.path().join("out.parquet");
        let imported = import_table(&trace.import(&path, limit, None), &out).unwrap();
        (imported, LengthDataset::read_parquet(&out).unwrap())
    };
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
                 2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109";
    let (imported, dataset) = read(Trace::Azure, azure, None);
    assert_eq!(
        (imported.samples, imported.finish_reasons),
        (2, Known::Assumed)
    );
    let last = &dataset.samples[1];
    assert_eq!((last.prompt_tokens, last.response_tokens), (396, 109));
    assert!((last.arrival_s.unwrap() - 4.314_579).abs() < 1e-9);
    let (imported, _) = read(Trace::Azure, azure, Some(109));
    assert_eq!(
        (imported.censored, imported.finish_reasons),
        (1, Known::Inferred)
    );

    let mooncake = "{\"timestamp\": 1000, \"input_length\": 6758, \"output_length\": 500, \
                    \"hash_ids\": [0, 1]}\n\
                    {\"timestamp\": 3000, \"input_length\": 7, \"output_length\": 3, \"hash_ids\": []}\n";
    let (_, dataset) = read(Trace::Mooncake, mooncake, None);
    let last = &dataset.samples[1];
    assert_eq!(
        (last.prompt_tokens, last.response_tokens, last.arrival_s),
        (7, 3, Some(2.0))
    );

    let ssjf = ",output_token_length,predicted_length,latency,model\n\
                0,40,0,0.0233,vicuna-13b\n1,511,1,0.0098,vicuna-13b\n";
    let (imported, dataset) = read(Trace::Ssjf, ssjf, None);
    assert_eq!(
        (imported.censored, dataset.provenance.max_new_tokens),
        (1, 511)
    );
    assert_eq!(dataset.samples[1].finish_reason, FinishReason::Length);
    assert_eq!(dataset.samples[0].category.as_deref(), Some("vicuna-13b"));
    assert_eq!(dataset.samples[0].arrival_s, None);
    let other = dir.path().join("other.csv");
    std::fs::write(&other, "a,b\n1,2\n").unwrap();
    let import = Trace::Azure.import(Path::new(&other), None, None);
    let message = import_table(&import, &dir.path().join("no.parquet"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("no column `GeneratedTokens`: it has `a`, `b`"),
        "{message}"
    );
}
