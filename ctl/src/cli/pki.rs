//! The authority of a site, and its certificates.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use slipway_service::roles::Role;

use crate::{
    context,
    failure::Outcome,
    output::{
        self,
        table::{self, Columns, Row},
    },
    pki::{Authority, Files, Named, Record},
};

/// How long a certificate lasts where nobody says.
const DAYS: u32 = 365;

/// How long an authority does.
const AUTHORITY_DAYS: u32 = 3650;

#[derive(Debug, Args)]
pub struct Group {
    /// Folder of the authority [default: pki, beside ctl's contexts]
    #[arg(long, value_name = "DIR", env = "SLIPWAY_PKI_DIR", global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an authority; never over one that is there
    Init {
        /// Its name [default: one of its own]
        #[arg(long)]
        name: Option<String>,
        /// How long it lasts
        #[arg(long, default_value_t = AUTHORITY_DAYS)]
        days: u32,
    },
    /// Issue a certificate to a person or a service
    Issue {
        name: String,
        /// What it allows where it is shown: read, pull, build, operate or admin
        #[arg(long)]
        role: Option<Role>,
        /// Name or address that others connect to, of a service; may be given several times
        #[arg(long, value_name = "HOST")]
        host: Vec<String>,
        /// How long it lasts
        #[arg(long, default_value_t = DAYS)]
        days: u32,
    },
    /// Issue another certificate and key for the same name, role and hosts
    Renew {
        name: String,
        /// How long it lasts
        #[arg(long, default_value_t = DAYS)]
        days: u32,
    },
    /// Revoke certificates, all of a name or one by its serial number, and write the list of them
    Revoke {
        #[arg(required = true, value_name = "NAME|SERIAL")]
        certificates: Vec<String>,
    },
    /// Write the list of what was revoked once more
    Crl,
    /// List what was issued
    #[command(alias = "list")]
    Ls {
        /// Format output using a custom template
        #[arg(long)]
        format: Option<String>,
        /// Only show names
        #[arg(short, long)]
        quiet: bool,
    },
}

impl Group {
    pub fn run(self) -> Outcome {
        let folder = match self.dir {
            Some(folder) => folder,
            None => context::File::path().with_file_name("pki"),
        };
        let now = Timestamp::now();
        let open = || Authority::open(&folder);
        match self.command {
            Command::Init { name, days } => {
                Authority::init(&folder, name, days, now)?;
                let path = |name| folder.join(name).display().to_string();
                output::print(&format!(
                    "Authority:           {}\nRevoked (none yet):  {}\nKeep to yourself:    {}\n",
                    path("ca.pem"),
                    path("crl.pem"),
                    path("ca.key")
                ))?;
            }
            Command::Issue {
                name,
                role,
                host,
                days,
            } => {
                let to = Named::new(name, role, host)?;
                tell(&open()?.issue(to, days, now)?)?;
            }
            Command::Renew { name, days } => tell(&open()?.renew(&name, days, now)?)?,
            Command::Revoke { certificates } => {
                let authority = open()?;
                for named in certificates {
                    for record in authority.revoke(&named, now)? {
                        output::print(&format!("{} {}\n", record.to.name, record.serial))?;
                    }
                }
                eprintln!(
                    "The list is {}: bring it to every service (tls_crl)",
                    authority.path("crl.pem").display()
                );
            }
            Command::Crl => {
                let path = open()?.list(now)?;
                output::print(&format!("{}\n", path.display()))?;
            }
            Command::Ls { format, quiet } => {
                let rows: Vec<_> = open()?.records()?.iter().map(|r| row(r, now)).collect();
                let format = if quiet {
                    Some("{{.Name}}")
                } else {
                    format.as_deref()
                };
                output::print(&table::render(COLUMNS, &rows, format)?)?;
            }
        }
        Ok(0)
    }
}

const COLUMNS: Columns = Columns {
    shown: &[
        ("Name", "NAME"),
        ("Role", "ROLE"),
        ("Hosts", "HOSTS"),
        ("State", "STATE"),
        ("Expires", "EXPIRES"),
        ("Serial", "SERIAL"),
    ],
    hidden: &[],
};

fn row(record: &Record, now: Timestamp) -> Row {
    let state = record.state(now).name();
    Row::new([
        ("Name", record.to.name.clone()),
        ("Role", record.to.role.clone().unwrap_or_default()),
        ("Hosts", record.to.hosts.join(",")),
        ("State", state.to_owned()),
        ("Expires", record.ends.to_string()),
        ("Serial", record.serial.clone()),
    ])
}

fn tell((record, files): &(Record, Files)) -> Outcome<()> {
    output::print(&format!(
        "Certificate:  {}\nKey:          {}\nExpires:      {}\nSerial:       {}\n",
        files.cert.display(),
        files.key.display(),
        record.ends,
        record.serial
    ))
}
