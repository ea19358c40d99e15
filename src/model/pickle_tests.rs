use super::*;
use crate::model::pickle_machine::MAX_VALUES;

/// Puts pickles together, instruction by instruction.
#[derive(Default, Clone)]
pub(in crate::model) struct Assembler(pub Vec<u8>);

impl Assembler {
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn text(self, text: &str) -> Self {
        let length = (text.len() as u32).to_le_bytes();
        self.raw(b"X").raw(&length).raw(text.as_bytes())
    }

    pub fn int(self, n: i64) -> Self {
        self.raw(&[0x8a, 8]).raw(&n.to_le_bytes())
    }

    pub fn ints(self, ns: &[i64]) -> Self {
        ns.iter().fold(self.raw(b"("), |a, n| a.int(*n)).raw(b"t")
    }

    /// A view into storage `key` of `len` elements of a class such as `FloatStorage`.
    pub fn tensor(
        self,
        (class, key, len): (&str, &str, i64),
        offset: i64,
        shape: &[i64],
        strides: &[i64],
    ) -> Self {
        self.raw(b"ctorch._utils\n_rebuild_tensor_v2\n((")
            .text("storage")
            .raw(format!("ctorch\n{class}\n").as_bytes())
            .text(key)
            .text("cpu")
            .int(len)
            .raw(b"tQ")
            .int(offset)
            .ints(shape)
            .ints(strides)
            .raw(b"\x89ccollections\nOrderedDict\n)RtR")
    }

    /// A table of one entry, whose value `inner` makes.
    pub fn table(name: &str, inner: impl FnOnce(Self) -> Self) -> Vec<u8> {
        let open = Assembler::default().raw(b"\x80\x02}").text(name);
        inner(open).raw(b"s.").0
    }
}

fn flaw(pickle: &[u8]) -> String {
    match tensors(pickle).unwrap_err() {
        Flaw::Damaged(why) | Flaw::Unfit(why) => why,
    }
}

#[test]
fn a_tensor_is_described() {
    let pickle = Assembler::table("w", |a| {
        a.tensor(("HalfStorage", "7", 12), 2, &[2, 5], &[5, 1])
    });
    let tensors = tensors(&pickle).unwrap();
    let view = &tensors["w"];
    assert_eq!(view.storage.elements, Elements::F16);
    assert_eq!((view.storage.key.as_str(), view.storage.len), ("7", 12));
    assert_eq!((view.offset, &view.shape[..]), (2, &[2, 5][..]));
    assert_eq!(view.strides, [5, 1]);
}

#[test]
fn nothing_is_ever_run() {
    let marker = std::env::temp_dir().join(format!("lenaware-run-{}", std::process::id()));
    let command = format!("touch {}", marker.display());
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ] {
        let direct = |a: Assembler| {
            a.raw(format!("c{module}\n{name}\n(").as_bytes())
                .text(&command)
                .raw(b"tR")
        };
        let by_stack = |a: Assembler| {
            a.text(module)
                .text(name)
                .raw(b"\x93(")
                .text(&command)
                .raw(b"t\x81")
        };
        for pickle in [
            Assembler::table("w", direct),
            Assembler::table("w", by_stack),
            direct(Assembler::default()).raw(b".").0,
        ] {
            let why = flaw(&pickle);
            assert!(why.contains(&format!("`{module}.{name}`")), "{why}");
            assert!(why.contains("nothing was run"), "{why}");
        }
    }
    assert!(!marker.exists());
}

#[test]
fn pickles_that_grow_or_nest_without_end_are_refused_or_small() {
    // A list of two of a list of two of ...: 2^60 when written out, 61 values here.
    let mut laughs = Assembler::default().raw(b"\x80\x02]q\x00");
    for n in 0..60u8 {
        laughs = laughs.raw(&[b'h', n, b'h', n, 0x86, b'q', n + 1]);
    }
    assert!(flaw(&laughs.raw(b".").0).contains("no table"));
    // As deep as it is long; taking it apart must not recurse.
    let mut deep = vec![b')'];
    deep.extend(std::iter::repeat_n(0x85, 900_000));
    deep.push(b'.');
    assert!(flaw(&deep).contains("no table"));
    assert!(flaw(&vec![b')'; MAX_VALUES + 1]).contains("too many values"));
    // A text of 4 GB in ten bytes.
    assert!(flaw(b"\x80\x02X\xff\xff\xff\xffab").contains("too early"));
    // A list that holds itself.
    assert!(flaw(b"\x80\x02]q\x00h\x00a.").contains("no table"));
}

#[test]
fn what_makes_no_sense_is_named() {
    let one = ("FloatStorage", "0", 4);
    let cases: [(Vec<u8>, &str); 12] = [
        (
            Assembler::table("w", |a| a.tensor(one, -1, &[4], &[1])),
            "size of -1",
        ),
        (
            Assembler::table("w", |a| a.tensor(one, 0, &[-4], &[1])),
            "size of -4",
        ),
        (
            Assembler::table("w", |a| a.tensor(one, 0, &[4], &[-1])),
            "size of -1",
        ),
        (
            Assembler::table("w", |a| a.tensor(one, 0, &[2, 2], &[1])),
            "other strides",
        ),
        (
            Assembler::table("w", |a| a.tensor(one, 0, &[1; 9], &[1; 9])),
            "9 dimensions",
        ),
        (
            Assembler::table("w", |a| a.raw(b"ctorch._utils\n_rebuild_tensor_v2\n)R")),
            "unknown way",
        ),
        (
            Assembler::table("w", |a| a.raw(b"ctorch._tensor\n_rebuild_from_type_v2\n)R")),
            "unknown way",
        ),
        (Assembler::table("w", |a| a.raw(b"NNR")), "no function"),
        (Assembler::table("w", |a| a.raw(b"K\x01Q")), "tuple"),
        (Assembler::table("model", |a| a.raw(b"}")), "under `model`"),
        (b"\x80\x09.".to_vec(), "protocol 9"),
        (b"\x80\x02\xff.".to_vec(), "0xff"),
    ];
    for (pickle, part) in cases {
        let why = flaw(&pickle);
        assert!(why.contains(part), "{part} in {why}");
        for cut in 0..pickle.len() {
            assert!(tensors(&pickle[..cut]).is_err());
        }
    }
    for code in 0..=255u8 {
        for rest in [&b""[..], b".", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff."] {
            let _ = tensors(&[&[code], rest].concat());
        }
    }
    let twice = Assembler::default().raw(b"}(");
    let twice = twice.text("w").tensor(one, 0, &[4], &[1]);
    let twice = twice.text("w").tensor(one, 0, &[4], &[1]).raw(b"u.");
    assert!(flaw(&twice.0).contains("two tensors"));
}
