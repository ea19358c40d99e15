//! A template and what it is given: Jinja as Hugging Face runs it.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};

use crate::model::source::one_line;

/// Steps a template may take, of which each pays for 64 bytes too; real ones take some hundreds.
const FUEL: u64 = 1_000_000;

/// A compiled template with the special tokens that it may write.
#[derive(Debug, Clone)]
pub(super) struct Rendering {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl Rendering {
    /// # Errors
    /// Why the template is not valid, in one line.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Rendering, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(one_line)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_fixed);
        environment
            .add_template_owned("chat", source.to_string())
            .map_err(one_line)?;
        Ok(Rendering {
            environment,
            bos_token: bos_token.into(),
            eos_token: eos_token.into(),
        })
    }

    /// What the template makes of one message of the user's.
    ///
    /// # Errors
    /// Why it refuses, in one line.
    pub fn render(&self, instruction: &str) -> Result<String, String> {
        let message = context! { role => "user", content => instruction };
        let given = context! {
            messages => [message],
            add_generation_prompt => true,
            bos_token => &self.bos_token,
            eos_token => &self.eos_token,
        };
        (self.environment.get_template("chat"))
            .and_then(|template| template.render(given))
            .map_err(one_line)
    }
}

/// Formats the fixed day, 26 July 2024.
fn strftime_fixed(format: String) -> Result<String, minijinja::Error> {
    let day = jiff::civil::date(2024, 7, 26).at(0, 0, 0, 0);
    jiff::fmt::strtime::format(format, day)
        .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
}
