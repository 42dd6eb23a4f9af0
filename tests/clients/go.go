// go-qemu: go run go.go SOCKET CONVERSATION; prints a line for each answer, then the events.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/digitalocean/go-qemu/qmp"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	monitor, err := qmp.NewSocketMonitor("unix", os.Args[1], 5*time.Second)
	must(err)
	must(monitor.Connect())
	stream, err := monitor.Events(context.Background())
	must(err)
	var names []string
	var lock sync.Mutex
	go func() {
		for event := range stream {
			lock.Lock()
			names = append(names, event.Event)
			lock.Unlock()
		}
	}()
	text, err := os.ReadFile(os.Args[2])
	must(err)
	var steps [][]json.RawMessage
	must(json.Unmarshal(text, &steps))
	ask := func(command string, arguments json.RawMessage) string {
		line, _ := json.Marshal(map[string]interface{}{"execute": command, "arguments": arguments})
		answer, err := monitor.Run(line)
		if err != nil {
			line, _ = json.Marshal(map[string]string{"error": err.Error()})
			return string(line)
		}
		return string(answer)
	}
	for _, step := range steps {
		var command string
		must(json.Unmarshal(step[0], &command))
		if command == "query-qmp-schema" {
			// go-qemu takes lines of at most 64 KiB, from a real QEMU too.
			continue
		}
		if command == "until" {
			var wanted, got interface{}
			must(json.Unmarshal(step[1], &command))
			must(json.Unmarshal(step[2], &wanted))
			for {
				answer := ask(command, json.RawMessage("{}"))
				var parsed map[string]interface{}
				must(json.Unmarshal([]byte(answer), &parsed))
				got = parsed["return"]
				if fmt.Sprint(got) == fmt.Sprint(wanted) {
					fmt.Println(answer)
					break
				}
			}
			continue
		}
		fmt.Println(ask(command, step[1]))
	}
	lock.Lock()
	line, _ := json.Marshal(map[string][]string{"events": names})
	fmt.Println(string(line))
}
