//! Contexts.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use slipway_service::{Address, Paths, tls::TlsFiles};

use crate::{
    context::{Context, DEFAULT, File, chosen},
    failure::{Failure, Outcome},
    output::{
        self,
        table::{self, Columns, Row},
    },
};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List contexts
    #[command(alias = "list")]
    Ls {
        /// Format output using a custom template
        #[arg(long)]
        format: Option<String>,
        /// Only show context names
        #[arg(short, long)]
        quiet: bool,
    },
    /// Create a context: services that are not named are those of this host
    Create(Box<Create>),
    /// Set the current context
    Use { name: String },
    /// Display detailed information on one or more contexts
    Inspect { names: Vec<String> },
    /// Remove one or more contexts
    #[command(alias = "remove")]
    Rm {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct Create {
    name: String,
    #[arg(long)]
    registry: Option<Address>,
    #[arg(long)]
    builder: Option<Address>,
    #[arg(long)]
    runtime: Option<Address>,
    #[arg(long)]
    netd: Option<Address>,
    /// Authority of the certificates of services that are reached by tcp (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    ca: Option<PathBuf>,
    /// Certificate that is shown to them (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "ca")]
    key: Option<PathBuf>,
    /// List of what that authority has revoked (PEM)
    #[arg(long, value_name = "FILE", requires = "ca")]
    crl: Option<PathBuf>,
    /// Description of the context
    #[arg(long, default_value = "")]
    description: String,
}

impl Command {
    pub fn run(self) -> Outcome {
        let path = File::path();
        let mut file = File::load(&path)?;
        match self {
            Self::Ls { format, quiet } => {
                // The chosen one may not exist: the list must show what does.
                let current = chosen(None).map_or_else(|_| String::new(), |(name, _)| name);
                let names = std::iter::once(DEFAULT).chain(file.context.keys().map(String::as_str));
                let mut rows = Vec::new();
                for name in names {
                    let context = file.get(name)?;
                    rows.push(Row::new([
                        (
                            "Name",
                            if format.is_none() && !quiet && name == current {
                                format!("{name} *")
                            } else {
                                name.to_owned()
                            },
                        ),
                        ("Description", context.description),
                        ("Registry", context.registry.to_string()),
                        ("Builder", context.builder.to_string()),
                        ("Runtime", context.runtime.to_string()),
                        ("Current", (name == current).to_string()),
                    ]));
                }
                let columns = Columns {
                    shown: &[
                        ("Name", "NAME"),
                        ("Description", "DESCRIPTION"),
                        ("Runtime", "RUNTIME"),
                        ("Registry", "REGISTRY"),
                        ("Builder", "BUILDER"),
                    ],
                    hidden: &[("Current", "CURRENT")],
                };
                let format = if quiet {
                    Some("{{.Name}}")
                } else {
                    format.as_deref()
                };
                output::print(&table::render(columns, &rows, format)?)?;
            }
            Self::Create(create) => {
                let Create {
                    name,
                    registry,
                    builder,
                    runtime,
                    netd,
                    ca,
                    cert,
                    key,
                    crl,
                    description,
                } = *create;
                if name == DEFAULT || file.context.contains_key(&name) {
                    return Err(Failure::new(format!("context \"{name}\" already exists")));
                }
                let local = Context::local(&Paths::from_env().run);
                let context = Context {
                    registry: registry.unwrap_or(local.registry),
                    builder: builder.unwrap_or(local.builder),
                    runtime: runtime.unwrap_or(local.runtime),
                    netd: netd.unwrap_or(local.netd),
                    description,
                    tls: tls(ca, cert, key, crl)?,
                };
                file.context.insert(name.clone(), context);
                file.save(&path)?;
                println!("{name}");
            }
            Self::Use { name } => {
                file.get(&name)?;
                file.current = Some(name.clone());
                file.save(&path)?;
                println!("{name}");
            }
            Self::Inspect { names } => {
                let names = if names.is_empty() {
                    vec![chosen(None)?.0]
                } else {
                    names
                };
                let mut all = Vec::new();
                for name in names {
                    let mut value = serde_json::to_value(file.get(&name)?)
                        .map_err(|e| Failure::new(e.to_string()))?;
                    value["name"] = name.into();
                    all.push(value);
                }
                output::print(&format!("{:#}\n", serde_json::Value::from(all)))?;
            }
            Self::Rm { names } => {
                for name in names {
                    if name == DEFAULT {
                        return Err(Failure::new("context \"default\" cannot be removed"));
                    }
                    file.get(&name)?;
                    file.context.remove(&name);
                    if file.current.as_ref() == Some(&name) {
                        file.current = None;
                    }
                    println!("{name}");
                }
                file.save(&path)?;
            }
        }
        Ok(0)
    }
}

/// All of them or none: clap sees to that. Their paths hold wherever the context is used.
fn tls(
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    crl: Option<PathBuf>,
) -> Outcome<Option<TlsFiles>> {
    let absolute = |path: PathBuf| std::path::absolute(&path).map_err(Failure::from);
    let (Some(cert), Some(key)) = (cert, key) else {
        return Ok(None);
    };
    Ok(Some(TlsFiles {
        cert: absolute(cert)?,
        key: absolute(key)?,
        ca: ca.map(absolute).transpose()?,
        crl: crl.map(absolute).transpose()?,
    }))
}
