//! Other settings for a running gateway: all of them at once, or none.
//! In: a settings file. Out: [`Reloaded`]. Errors: [`ReloadError`], told in the log; the settings stay as they were.
//! I/O: files; the log.

use std::path::Path;

use crate::assemble::build::build;
use crate::assemble::{Doorkeep, InForce, StartError, Surroundings};
use crate::config::{ConfigError, LogSettings, Problem, Settings};
use crate::renew::PersistError;
use crate::server::tls::TlsError;
use crate::server::{Hall, Welcome};
use crate::text::with_causes;

/// What came of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// The new settings are in force.
    New,
    /// They cannot be used: the old ones are.
    Kept,
}

/// Why settings do not come into force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// They cannot be used, now or ever.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Some of them cannot change while the gateway runs.
    #[error("the settings change what cannot change while Doorkeep runs")]
    Fixed(Vec<Problem>),
    /// Nothing can be built from them.
    #[error(transparent)]
    Start(#[from] StartError),
    /// TLS cannot be served by them.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What `state_dir` holds cannot be read, or nothing can be written there.
    #[error(transparent)]
    Persist(#[from] PersistError),
}

impl Doorkeep {
    /// Reads the settings file again. What is wrong with it is told in the log, and counted.
    pub fn reload(&self, path: &Path) -> Reloaded {
        self.in_force().surroundings.watched.look(path);
        let changed = Settings::load(path).map_err(ReloadError::from).and_then(|settings| {
            let advice = settings.advice.clone();
            self.change(settings).map(|()| advice)
        });
        match changed {
            Ok(advice) => {
                for advice in advice {
                    tracing::info!(%advice, "settings");
                }
                self.meters.reload("new");
                tracing::info!("the settings were read again and are in force");
                Reloaded::New
            }
            Err(error) => {
                self.meters.reload("kept");
                tell(path, &error);
                Reloaded::Kept
            }
        }
    }

    /// Puts these settings into force: for connections that come and requests that begin from now on. What is remembered of
    /// sessions, what is under way, and every open connection and tunnel goes on.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing has changed then.
    pub fn change(&self, settings: Settings) -> Result<(), ReloadError> {
        let mut in_force = self.in_force();
        let problems = self.fixed.differing(&settings);
        if !problems.is_empty() {
            return Err(ReloadError::Fixed(problems));
        }
        let mut next = Surroundings::of(&settings)?;
        let (generation, keeping) = build(settings, &self.common, Some(&in_force.generation))?;
        let gateway = generation.gateway.clone();
        if next.state_dir != in_force.surroundings.state_dir {
            gateway.renewer().restore()?;
        }
        // From here on nothing can fail.
        next.watched.goes_on_from(&in_force.surroundings.watched);
        gateway.renewer().take_over();
        if let Some(desk) = &gateway.parts().desk {
            desk.take_over(self.common.clock.now());
        }
        let seats = self.entrance.now().hall.seats.by(next.listen.seats.clone());
        let welcome = next.welcome(self.current.clone(), seats, &self.common);
        self.current.change(gateway);
        self.entrance.change(welcome);
        let operators = Welcome::clone(&self.admin_entrance.now());
        let hall = Hall { limits: next.listen.limits, ..operators.hall };
        self.admin_entrance.change(Welcome { hall, tls: None });
        *in_force = InForce::begin(generation, keeping, next, &self.common);
        Ok(())
    }

    /// What the settings in force say of the log.
    #[must_use]
    pub fn log(&self) -> LogSettings {
        self.in_force().surroundings.log.clone()
    }

    /// Waits until a file of the settings has changed and rested, where they say that they are watched.
    pub async fn changed(&self, path: &Path) {
        loop {
            let rested = self.in_force().surroundings.watched.has_changed(path);
            if rested {
                return;
            }
            tokio::time::sleep(crate::assemble::watch::LOOK_EVERY).await;
        }
    }
}

/// Every problem with its place, then what follows.
fn tell(path: &Path, error: &ReloadError) {
    let file = path.display();
    match error {
        ReloadError::Config(ConfigError::Problems(problems)) | ReloadError::Fixed(problems) => {
            for Problem { line, path, what } in problems {
                tracing::error!(%file, line, key = path, problem = what, "settings");
            }
        }
        ReloadError::Config(ConfigError::Read { .. })
        | ReloadError::Start(_)
        | ReloadError::Tls(_)
        | ReloadError::Persist(_) => {
            tracing::error!(%file, problem = with_causes(error), "settings");
        }
    }
    tracing::error!(%file, "the settings were not taken: those before stay in force, whole");
}
