//! Templates of strangers are rendered in a process of their own. The template engine bounds
//! their steps; but values that hold themselves, or one another a billion times, overflow its
//! stack or take the memory there is, and neither can be caught in the process it happens in. A
//! process that the system ends at its limits is an error like any other.
//!
//! A program that calls [`serve_if_asked`] first thing, as `lenaware` does, has this; in others
//! templates are rendered in the program's own process.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use serde::{Deserialize, Serialize};

use super::rendering::Rendering;

/// Set for the process that renders.
const ASKED: &str = "LENAWARE_RENDERS";
/// Seconds of processor time that a prompt may take.
const SECONDS: u64 = 5;
/// Bytes of memory that the template may take, the process itself not counted.
const MEMORY: u64 = 128 << 20;
/// Bytes of a prompt beside the instruction in it.
const BESIDE: usize = 1 << 20;

/// What renders.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// The first line that the process is told.
#[derive(Serialize, Deserialize)]
struct Template {
    source: String,
    bos_token: String,
    eos_token: String,
}

/// What it answers, a line each, to the template and to every instruction.
type Answer = Result<String, String>;

/// A process that renders one template.
pub(super) struct Apart {
    template: Template,
    running: Mutex<Option<Running>>,
}

struct Running {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl std::fmt::Debug for Apart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Apart").finish_non_exhaustive()
    }
}

/// Whether templates can be rendered apart.
pub(super) fn is_possible() -> bool {
    PROGRAM.get().is_some()
}

/// To be called first thing by a program whose templates are to be rendered apart: it is started
/// again for each template, and then renders and ends here.
pub fn serve_if_asked() {
    if std::env::var_os(ASKED).is_some() {
        serve();
        std::process::exit(0);
    }
    // The very program that runs, whatever has been put in its place since.
    let this = match cfg!(target_os = "linux") {
        true => Ok(PathBuf::from("/proc/self/exe")),
        false => std::env::current_exe(),
    };
    if let Ok(this) = this {
        render_by(this);
    }
}

/// Has templates rendered by a program that calls [`serve_if_asked`].
pub fn render_by(program: PathBuf) {
    // Whoever was first keeps it.
    let _ = PROGRAM.set(program);
}

impl Apart {
    /// # Errors
    /// Why the template is not valid, or the process cannot be started, in one line.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Apart, String> {
        let apart = Apart {
            template: Template {
                source: source.into(),
                bos_token: bos_token.into(),
                eos_token: eos_token.into(),
            },
            running: Mutex::new(None),
        };
        *apart.lock() = Some(apart.start()?);
        Ok(apart)
    }

    /// As [`Rendering::render`].
    ///
    /// # Errors
    /// As there, and a template that goes beyond its limits.
    pub fn render(&self, instruction: &str) -> Answer {
        let mut running = self.lock();
        let mut process = match running.take() {
            Some(process) => process,
            None => self.start()?,
        };
        let answer = process.ask(&instruction, instruction.len())?;
        *running = Some(process);
        answer
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn start(&self) -> Result<Running, String> {
        let failed = |why: &dyn std::fmt::Display| {
            format!("the process that is to render it cannot be started: {why}")
        };
        let program = PROGRAM.get().ok_or_else(|| failed(&"which is not known"))?;
        let mut command = Command::new(program);
        // Nothing of the user's is its business, but where libraries are.
        command.env_clear().env(ASKED, "1");
        // Else the allocator sets more aside than the limit.
        command.env("MIMALLOC_ARENA_RESERVE", "0");
        for name in ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PATH", "SystemRoot"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        #[cfg(unix)]
        {
            use std::os::unix::process::CommandExt;
            // Ctrl-C is for this process, which ends the other by closing its pipe.
            command.process_group(0);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| failed(&e))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(&"it has no pipes"));
        };
        let mut running = Running {
            child,
            to,
            from: BufReader::new(from),
        };
        running.ask(&self.template, 0)??;
        Ok(running)
    }
}

impl Running {
    /// Tells it `what`, and takes an answer of so many bytes and [`BESIDE`].
    ///
    /// # Errors
    /// A process that is no more.
    fn ask(&mut self, what: &impl Serialize, bytes: usize) -> Result<Answer, String> {
        let beyond = || {
            format!(
                "it takes more than {SECONDS} s, {} MB, or nests without end",
                MEMORY >> 20
            )
        };
        let mut line = serde_json::to_vec(what).map_err(|e| e.to_string())?;
        line.push(b'\n');
        // It may end while it is told, for what it was told before.
        self.to.write_all(&line).map_err(|_| beyond())?;
        line.clear();
        // Characters may be escaped to six times their bytes.
        let mut from = (&mut self.from).take(6 * (bytes + BESIDE) as u64 + 100);
        from.read_until(b'\n', &mut line).map_err(|_| beyond())?;
        serde_json::from_slice(&line).map_err(|_| beyond())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends by itself once nobody can ask; one that is busy need not.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Renders what the process is told to.
fn serve() {
    limit();
    let mut lines = std::io::stdin().lock().lines();
    let mut told = || lines.next()?.ok();
    let Some(template) = told().and_then(|line| serde_json::from_str::<Template>(&line).ok())
    else {
        return;
    };
    limit_time();
    let made = Rendering::new(&template.source, &template.bos_token, &template.eos_token);
    let answer = made.as_ref().map(|_| String::new()).map_err(String::clone);
    let (Ok(()), Ok(rendering)) = (tell(&answer), made) else {
        return;
    };
    while let Some(line) = told() {
        limit_time();
        let answer = match serde_json::from_str::<String>(&line) {
            Ok(instruction) => match rendering.render(&instruction) {
                Ok(text) if text.len() > instruction.len() + BESIDE => Err(format!(
                    "it writes {} bytes beside the instruction",
                    text.len() - instruction.len()
                )),
                answer => answer,
            },
            Err(e) => Err(e.to_string()),
        };
        if tell(&answer).is_err() {
            return;
        }
    }
}

fn tell(answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

/// No file can be opened or written, nor a connection made, from now on, and memory ends.
#[cfg(unix)]
fn limit() {
    use rustix::process::Resource::{As, Core, Fsize, Nofile};
    set(Core, 0);
    set(Fsize, 0);
    if let Some(taken) = address_space() {
        set(As, taken + MEMORY);
    }
    // Those that are open stay so: the three that it talks by.
    set(Nofile, 0);
}

#[cfg(unix)]
fn set(resource: rustix::process::Resource, most: u64) {
    let limit = rustix::process::Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    // A system that has no such limit has the others.
    let _ = rustix::process::setrlimit(resource, limit);
}

/// Bytes of addresses that the process has, where the system tells.
#[cfg(unix)]
fn address_space() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split(' ').next()?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Ends the process where it takes too long from now on.
#[cfg(unix)]
fn limit_time() {
    use rustix::process::{Resource, Rlimit};
    use rustix::time::{ClockId, clock_gettime};
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec as u64;
    let limit = Rlimit {
        current: Some(used + 1 + SECONDS),
        maximum: None,
    };
    let _ = rustix::process::setrlimit(Resource::Cpu, limit);
}

#[cfg(not(unix))]
fn limit() {}

#[cfg(not(unix))]
fn limit_time() {}
