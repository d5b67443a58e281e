// Of test_supervised_languages.py: goroutines on many threads, and a process started by clone(CLONE_VFORK).
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
)

func main() {
	var made atomic.Int64
	var group sync.WaitGroup
	for i := 0; i < 32; i++ {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			path := filepath.Join(os.Args[1], fmt.Sprint("go", number))
			if os.WriteFile(path, []byte("text"), 0o600) == nil && os.Rename(path, path+".2") == nil && os.Remove(path+".2") == nil {
				made.Add(1)
			}
		}(i)
	}
	group.Wait()
	fmt.Println("changes", made.Load())
	for i := 0; i < 2; i++ {
		out, _ := exec.Command("/bin/echo", "child").Output()
		fmt.Print(string(out))
	}
	err := os.Remove(os.Args[2])
	switch {
	case err == nil:
		fmt.Println("kept removed")
	case errors.Is(err, syscall.EPERM):
		fmt.Println("kept EPERM")
	default:
		fmt.Println("kept another error")
	}
}
