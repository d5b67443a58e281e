// Of test_supervised_languages.py: threads, and processes started by posix_spawn.
use std::{env, fs, process::Command, thread};

fn main() {
    let words: Vec<String> = env::args().collect();
    let threads: Vec<_> = (0..32)
        .map(|number| {
            let path = format!("{}/rs{}", words[1], number);
            thread::spawn(move || {
                let other = format!("{path}.2");
                fs::write(&path, "text").and_then(|_| fs::rename(&path, &other)).and_then(|_| fs::remove_file(&other)).is_ok()
            })
        })
        .collect();
    let made = threads.into_iter().map(|thread| thread.join().unwrap()).filter(|fine| *fine).count();
    println!("changes {made}");
    for _ in 0..2 {
        let out = Command::new("/bin/echo").arg("child").output().unwrap();
        print!("{}", String::from_utf8_lossy(&out.stdout));
    }
    match fs::remove_file(&words[2]).map_err(|error| error.raw_os_error()) {
        Ok(()) => println!("kept removed"),
        Err(Some(1)) => println!("kept EPERM"),
        Err(_) => println!("kept another error"),
    }
}
