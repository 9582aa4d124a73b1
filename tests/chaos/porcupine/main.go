// Package main judges exported histories with porcupine, a linearizability checker that knows nothing of this project.
//
// Standard input has an operation a line. The model is a lock that hands out rising tokens: an acquire succeeds if the key is free and
// its token is greater than the last one; an end (a release, an expiry, a death) frees the key if that token holds it. A history is
// good if every operation can be given a moment between its call and its return at which the model allows it.
//
// The last line is `<operations> operations, <keys> keys, <bad> bad`.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

const patience = 60 * time.Second

type operation struct {
	Key    string `json:"key"`
	Part   int    `json:"part"`
	Kind   string `json:"kind"`
	Token  int64  `json:"token"`
	Call   int64  `json:"call"`
	Return int64  `json:"return"`
}

// Who holds the key, and the last token granted for it; both 0 at the beginning.
type state struct {
	holder int64
	last   int64
}

var lock = porcupine.Model{
	Init: func() any { return state{} },
	Step: func(before, input, _ any) (bool, any) {
		was, op := before.(state), input.(operation)
		if op.Kind == "acquire" {
			return was.holder == 0 && op.Token > was.last, state{op.Token, op.Token}
		}
		return was.holder == op.Token, state{0, was.last}
	},
	Equal: func(left, right any) bool { return left == right },
}

type group struct {
	key  string
	part int
}

func main() {
	histories := map[group][]porcupine.Operation{}
	lines := bufio.NewScanner(os.Stdin)
	total := 0
	for lines.Scan() {
		var op operation
		if err := json.Unmarshal(lines.Bytes(), &op); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		where := group{op.Key, op.Part}
		histories[where] = append(histories[where], porcupine.Operation{
			ClientId: len(histories[where]), Input: op, Call: op.Call, Return: op.Return,
		})
		total++
	}
	bad := judge(histories)
	keys := map[string]bool{}
	for where := range histories {
		keys[where.key] = true
	}
	fmt.Printf("%d operations, %d keys, %d bad\n", total, len(keys), bad)
	if bad > 0 || lines.Err() != nil {
		os.Exit(1)
	}
}

func judge(histories map[group][]porcupine.Operation) int {
	order := make([]group, 0, len(histories))
	for where := range histories {
		order = append(order, where)
	}
	sort.Slice(order, func(left, right int) bool {
		return order[left].key < order[right].key || order[left].key == order[right].key && order[left].part < order[right].part
	})
	bad := 0
	for _, where := range order {
		if result := porcupine.CheckOperationsTimeout(lock, histories[where], patience); result != porcupine.Ok {
			fmt.Printf("%s, part %d: %s\n", where.key, where.part, result)
			bad++
		}
	}
	return bad
}
