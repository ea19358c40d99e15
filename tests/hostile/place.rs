//! A folder with a good file of every kind, and a server that says what it is told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lenaware::dataset::Label;
use lenaware::dataset::embedded::embedded;
use lenaware::endpoint::{Address, ChatRequest, Endpoint, EndpointOptions, NoAnswer};
use lenaware::kernel::Team;
use lenaware::lora::{Adapter, LoraConfig};
use lenaware::model::ModelConfig;
use lenaware::predictor::lexical;
use lenaware::predictor::training::TrainingData;
use lenaware::predictor::vocabulary::TermsConfig;
use lenaware::{Error, Result};
use serde_json::Value;

use crate::{seeds, tiny_model};

/// Answers of a server are refused after this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// See the module.
pub struct Place {
    dir: tempfile::TempDir,
    team: Arc<Team>,
    /// What the server answers next.
    said: Arc<Mutex<Vec<u8>>>,
    endpoint: Endpoint,
}

impl Place {
    /// Writes the good files, in memory where the system has a folder for that.
    pub fn new() -> Place {
        let memory = Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let dir = dir.expect("a folder can be made");
        let (said, endpoint) = server();
        let place = Place {
            dir,
            team: Team::new(1),
            said,
            endpoint,
        };
        place.fill();
        place
    }

    fn fill(&self) {
        let root = Path::new(crate::ROOT);
        tiny_model::write(&self.path("model"), 1);
        self.copy(&root.join("tests/fixtures/tiny-torch"), "torch");
        let config = &seeds::of("tokenizer-config")[0];
        self.put("torch/tokenizer_config.json", config);
        self.copy(&root.join("results/quickstart/replay"), "results");
        self.put(
            "conversations.json",
            br#"[{"id": "5", "conversations": [{"from": "human", "value": "q"}]}]"#,
        );
        self.fill_adapter();
        self.fill_words();
        seeds::gguf(&self.path("seed.gguf"));
    }

    fn fill_adapter(&self) {
        let config = ModelConfig {
            vocab_size: 259,
            num_hidden_layers: 1,
            ..ModelConfig::tiny()
        };
        let lora = LoraConfig {
            r: 2,
            ..LoraConfig::default()
        };
        let adapter = Adapter::new(lora, &config, "model", 1).expect("an adapter");
        std::fs::create_dir(self.path("adapter")).expect("a folder");
        lenaware::lora::peft::write(&adapter, &self.path("adapter")).expect("is written");
    }

    /// A predictor that reads words, and the same without the hashes of its files: a stranger
    /// leaves them out.
    fn fill_words(&self) {
        let mut dataset = embedded().expect("the embedded dataset");
        dataset.samples.truncate(200);
        dataset.samples.iter_mut().for_each(|s| s.split = None);
        let data = TrainingData::of("embedded", &dataset, Label::Max).expect("enough");
        let out = self.path("words");
        std::fs::create_dir(&out).expect("a folder");
        lexical::train(&data, TermsConfig::default(), false, &out).expect("is trained");
        self.copy(&out, "unsealed");
        let path = self.path("unsealed/predictor.json");
        let text = std::fs::read_to_string(&path).expect("is there");
        let mut description: Value = serde_json::from_str(&text).expect("is JSON");
        let fields = description.as_object_mut().expect("is an object");
        fields.remove("files");
        std::fs::write(&path, description.to_string()).expect("is written");
    }

    /// The path of one of its files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    pub fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("is written");
        path
    }

    fn copy(&self, from: &Path, to: &str) {
        std::fs::create_dir(self.path(to)).expect("a folder");
        for entry in std::fs::read_dir(from).expect("is there") {
            let entry = entry.expect("is there");
            let name = format!("{to}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_file() {
                std::fs::copy(entry.path(), self.path(&name)).expect("is copied");
            }
        }
    }

    /// Reads the folder of the file `name` by `read` while the file has these bytes, and puts
    /// the good ones back.
    pub fn with(
        &self,
        name: &str,
        bytes: &[u8],
        read: fn(&Place, &Path) -> Result<()>,
    ) -> Result<()> {
        let path = self.path(name);
        let good = std::fs::read(&path).ok();
        self.put(name, bytes);
        let outcome = read(self, path.parent().expect("is in a folder"));
        match good {
            Some(good) => drop(self.put(name, &good)),
            None => drop(std::fs::remove_file(&path)),
        }
        outcome
    }

    /// A thread count of one: what is read is small.
    pub fn team(&self) -> Arc<Team> {
        self.team.clone()
    }

    /// Asks a server that answers with these bytes: a whole HTTP response, or what is in one.
    pub fn answer(&self, bytes: &[u8]) -> Result<()> {
        let mut said = self.said.lock().expect("the server lives");
        said.clear();
        if !bytes.starts_with(b"HTTP/") {
            let length = bytes.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            said.extend_from_slice(head.as_bytes());
        }
        said.extend_from_slice(bytes);
        drop(said);
        let request = ChatRequest {
            model: "m".into(),
            messages: vec![],
            temperature: 0.0,
            top_p: 1.0,
            max_tokens: 5,
            seed: 1,
            n: 1,
            stream: false,
        };
        let stop = AtomicBool::new(false);
        match self.endpoint.answer(&request, &stop, &|_| ()) {
            Ok(_) => self.endpoint.model(Some("m"), &|_| ()).map(|_| ()),
            Err(NoAnswer::Failed(why)) => Err(Error::Endpoint(why)),
            Err(NoAnswer::Stopped) => Err(Error::Endpoint("stopped".into())),
        }
    }

    /// Good files for a reader, to spoil.
    pub fn seeds(&self, reader: &str) -> Vec<Vec<u8>> {
        let files: &[&str] = match reader {
            "gguf" => &["seed.gguf"],
            "safetensors" => &["model/model.safetensors"],
            "torch-bin" => &["torch/pytorch_model-00002-of-00002.bin"],
            "model-config" => &["model/config.json"],
            "tokenizer-json" => &["model/tokenizer.json"],
            "tokenizer-model" => &["torch/tokenizer.model"],
            "peft-config" => &["adapter/adapter_config.json"],
            "peft-tensors" => &["adapter/adapter_model.safetensors"],
            "predictor" => &["words/predictor.json"],
            "words" => &["words/lexical.safetensors"],
            "results" => &["results/arms.jsonl"],
            other => return seeds::of(other),
        };
        let read = |name: &&str| std::fs::read(self.path(name)).expect("is there");
        files.iter().map(read).collect()
    }
}

/// A server that gives every connection the same answer and closes it.
fn server() -> (Arc<Mutex<Vec<u8>>>, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("is bound"));
    let said = Arc::new(Mutex::new(Vec::new()));
    let answer = said.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever asks may be gone already.
            let _ = serve(stream, &answer);
        }
    });
    let endpoint = Endpoint::new(EndpointOptions {
        address: Address::parse(&address).expect("is a URL"),
        key: None,
        timeout: PATIENCE,
        retries: 0,
        concurrency: 1,
    });
    (said, endpoint)
}

fn serve(mut stream: TcpStream, said: &Mutex<Vec<u8>>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    reader.take(length).read_to_end(&mut Vec::new())?;
    let answer = said.lock().map(|said| said.clone()).unwrap_or_default();
    stream.write_all(&answer)?;
    stream.shutdown(Shutdown::Both)
}
