//! Which options bear on an error: the library, whose words it is in, knows of no command line.

use nearmiss::Error;

/// The error in one line, with the options that can change it.
pub fn line(error: &Error) -> String {
    let options = match error {
        Error::OutOfMemory { .. } => "--memory, --max-length",
        Error::NoDevice { .. } | Error::Unsupported { .. } => "--device",
        Error::Setting {
            setting: "max_length",
            ..
        } => "--max-length, --verifier-length",
        Error::Setting { setting, .. } => match *setting {
            "batch" => "--batch",
            "steps" => "--steps",
            "epochs" => "--epochs",
            "learning_rate" => "--learning-rate, --verifier-learning-rate",
            "true_accept" => "--true-accept",
            "keep_aside" => "--keep-aside",
            "built_in" => "--built-in",
            "scale" => "--scale",
            "checkpoint_every" => "--checkpoint-every",
            _ => return error.to_string(),
        },
        _ => return error.to_string(),
    };
    format!("{error} (options: {options})")
}
