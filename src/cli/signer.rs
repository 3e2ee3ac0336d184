//! Who signs: keys in files, and an outside program that keeps its key to itself.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use data_encoding::BASE64;
use serde::Deserialize;

use crate::cli::error::CliError;
use crate::cli::key;
use crate::content::code::Code;
use crate::content::{Envelope, PublicKey, SigningKey};

/// Longest answer of a signer command read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// How a signer command is spoken to; stands in the help of every command that takes one.
pub(crate) const PROTOCOL: &str = "\
CMD is split at white space, with '...' and \"...\" for what holds some; no shell is involved. It reads the
exact bytes to sign from stdin (the DSSE pre-authentication encoding) until their end and prints
  {\"public_key\": \"-----BEGIN PUBLIC KEY-----...\", \"sig\": \"BASE64 of 64 bytes of Ed25519\"}";

/// What a signer command prints.
#[derive(Deserialize)]
struct Answer {
    public_key: String,
    sig: String,
}

/// Who is to sign, read before any work is done for them.
pub(crate) struct Signers {
    keys: Vec<(PathBuf, SigningKey)>,
    /// As given, and its words.
    command: Option<(String, Vec<String>)>,
}

impl Signers {
    /// Reads the key files and takes the command apart.
    ///
    /// # Errors
    /// [`Code::Usage`] where nobody is named, or the command is no command; else as [`key::read_private`].
    pub(crate) fn load(keys: &[PathBuf], command: Option<&str>) -> Result<Self, CliError> {
        if keys.is_empty() && command.is_none() {
            return Err(CliError::new(Code::Usage, "nobody is named who signs")
                .remedy("name a key with --key FILE (`piecework key new FILE` makes one), or --signer-command CMD"));
        }
        let keys =
            keys.iter().map(|path| Ok((path.clone(), key::read_private(path)?))).collect::<Result<_, CliError>>()?;
        let split = |command: &str| Ok((command.to_owned(), split(command)?));
        let command = command.map(split).transpose().map_err(|error: CliError| match command {
            Some(command) => error.culprit(command),
            None => error,
        })?;
        Ok(Self { keys, command })
    }

    /// Signs with each key, then by the command.
    ///
    /// # Errors
    /// [`CliError`] naming the key or the command that did not sign.
    pub(crate) fn sign(&self, envelope: &mut Envelope) -> Result<(), CliError> {
        for (path, key) in &self.keys {
            envelope.sign(key).map_err(|error| CliError::from(error).culprit(path.display().to_string()))?;
        }
        let Some((command, words)) = &self.command else { return Ok(()) };
        let told = |error: CliError| error.culprit(command);
        let (public, signature) = ask(words, &envelope.signed_bytes()).map_err(told)?;
        envelope.add_signature(&public, signature).map_err(|error| told(error.into()))
    }
}

fn ask(words: &[String], message: &[u8]) -> Result<(PublicKey, [u8; 64]), CliError> {
    let (program, arguments) = words.split_first().ok_or_else(|| CliError::new(Code::Usage, "the command is empty"))?;
    let spawned = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| {
        let code = match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => Code::InputMissing,
            _ => Code::ResourceRefused,
        };
        CliError::new(code, "the signer command does not start").because(error)
    })?;
    let answer = converse(&mut child, message);
    let too_long = answer.as_ref().is_ok_and(|answer| is_too_long(answer));
    if too_long {
        // It may go on for ever; nobody listens any more.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| CliError::new(Code::Io, "the signer command is lost").because(error))?;
    if !status.success() && !too_long {
        return Err(CliError::new(Code::Io, format!("the signer command failed: {status}"))
            .remedy("run the command by itself and see what it says"));
    }
    read_answer(&answer?)
}

/// Sends the message and reads the answer at the same time, so that neither side waits for the other for ever.
fn converse(child: &mut Child, message: &[u8]) -> Result<Vec<u8>, CliError> {
    let fault = |error| CliError::new(Code::Io, "cannot talk to the signer command").because(error);
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    std::thread::scope(|scope| {
        // A command that needs less than everything closes early; its signature will tell whether that was right.
        let sent = scope.spawn(move || stdin.map_or(Ok(()), |mut stdin| stdin.write_all(message)));
        let mut answer = Vec::new();
        let read = stdout.map_or(Ok(0), |stdout| stdout.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut answer));
        let sent = sent.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match sent {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(fault(error)),
            _ => {}
        }
        read.map_err(fault)?;
        Ok(answer)
    })
}

fn is_too_long(answer: &[u8]) -> bool {
    u64::try_from(answer.len()).is_ok_and(|length| length > ANSWER_BYTES_MAX)
}

fn read_answer(answer: &[u8]) -> Result<(PublicKey, [u8; 64]), CliError> {
    let refuse = |what: &str| {
        CliError::new(Code::BadInput, format!("the signer command's answer is wrong: {what}"))
            .remedy("it must print one JSON object with public_key (PEM) and sig (base64); see `--help`")
    };
    if is_too_long(answer) {
        return Err(refuse("it is longer than 64 KiB"));
    }
    let answer: Answer = serde_json::from_slice(answer).map_err(|fault| refuse(&fault.to_string()))?;
    let public = PublicKey::from_pem(&answer.public_key).map_err(|fault| refuse(&fault.to_string()))?;
    let signature = BASE64.decode(answer.sig.trim().as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    Ok((public, signature.ok_or_else(|| refuse("sig is not the base64 of 64 bytes"))?))
}

/// Words of a command: white space parts them, quotes of either kind keep it; nothing else means anything.
fn split(command: &str) -> Result<Vec<String>, CliError> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(CliError::new(Code::Usage, "the signer command has a quote that is not closed"));
    }
    words.extend(word);
    if words.is_empty() {
        return Err(CliError::new(Code::Usage, "the signer command is empty"));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_without_a_shell() {
        let words = |text: &str| split(text).map_err(|error| error.code());
        assert_eq!(words("a  b\tc"), Ok(vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(
            words("'a b' \"c 'd\" e'f'g ''"),
            Ok(vec!["a b".into(), "c 'd".into(), "efg".into(), String::new()])
        );
        assert_eq!(words("$(x) `y` \\"), Ok(vec!["$(x)".into(), "`y`".into(), "\\".into()]));
        assert_eq!(words("  "), Err(Code::Usage));
        assert_eq!(words("a 'b"), Err(Code::Usage));
    }
}
