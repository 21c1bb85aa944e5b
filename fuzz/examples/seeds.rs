//! Writes the seeds into `corpus/`, each in the folder of its target; leaves what else is there.

use std::{fs, io};

use baton_fuzz::seeds;

fn main() -> io::Result<()> {
    let all = seeds::all();
    for seed in &all {
        let folder = seeds::corpus().join(seed.target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(&seed.name), &seed.bytes)?;
    }
    println!("{} seeds in {}", all.len(), seeds::corpus().display());
    Ok(())
}
