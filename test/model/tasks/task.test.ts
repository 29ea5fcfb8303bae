import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MAX_ANSWER_TOKENS, MAX_LABELS, MAX_TEMPLATE_CHARACTERS, task } from '../../../src/api/task.ts'
import { MidspanError } from '../../../src/errors.ts'
import { questionOf } from '../../../src/model/tasks/question.ts'
import { resolveTask, TaskError } from '../../../src/model/tasks/resolved-task.ts'
import { MAX_TASK_BYTES, parseTask, readTask } from '../../../src/model/tasks/task-file.ts'
import { Template } from '../../../src/model/tasks/template.ts'
import { temporaryFile } from '../../helpers/temporary-file.ts'

describe('a template', () => {
  it('writes named fields, and those within others', () => {
    expect(new Template('{{{a}}} of {b.text}').write({ a: 1, b: { text: 'two' } })).toEqual({ text: '{1} of two' })
  })

  it('leaves out a field that may be absent, and names one that may not', () => {
    const template = new Template('{context?}\n{question}')
    expect(template.write({ question: 'Why?' })).toEqual({ text: 'Why?' })
    expect(template.write({ context: 'x' })).toEqual({ reason: "has no field question, which the task's prompt names" })
  })

  it('reads any text, or says what is wrong with it', () => {
    fc.assert(fc.property(fc.string(), (source) => {
      try {
        new Template(source).write({})
      } catch (error) {
        expect(error).toBeInstanceOf(MidspanError)
      }
    }))
  })
})

describe('a task', () => {
  it.each([
    ['unknown fields', 'kind: classify\ncolour: red', 'mine.yaml: a task has no colour'],
    ['another kind', 'kind: guess', 'mine.yaml: kind cannot be used'],
    ['no kind', 'prompt: x', 'mine.yaml: kind cannot be used'],
    ['no YAML', 'kind: [', 'mine.yaml is not YAML'],
    ['a metric of another kind', 'kind: classify\nmetrics: [rougeL]', 'rougeL does not judge a task of the kind classify'],
    ['labels twice', 'kind: classify\nlabels: [a, a]', 'the task names a label twice'],
    ['labels of another kind', 'kind: qa\nlabels: [a, b]', 'a task of the kind qa has no labels'],
    ['labels in the prompt alone', "kind: classify\nprompt: '{labels} {text}'", 'the task does not list them'],
    ['a broken template', "kind: qa\nprompt: '{question'", 'single brace']
  ])('with %s is refused in one line', (_, text, message) => {
    expect(() => parseTask(text, 'mine.yaml')).toThrow(message)
  })

  it('of any text is read or refused', () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
      try {
        parseTask(text, 'mine.yaml')
      } catch (error) {
        expect(error).toBeInstanceOf(MidspanError)
      }
    }))
  })

  it('has bounds', async () => {
    const accepts = (value: object): boolean => task.safeParse({ kind: 'classify', ...value }).success
    const labels = (count: number): string[] => Array.from({ length: count }, (_, i) => `label ${i}`)
    const prompts = [MAX_TEMPLATE_CHARACTERS, MAX_TEMPLATE_CHARACTERS + 1].map((length) => 'x'.repeat(length))
    expect(prompts.map((prompt) => accepts({ prompt }))).toEqual([true, false])
    expect([accepts({ labels: labels(MAX_LABELS) }), accepts({ labels: labels(MAX_LABELS + 1) })]).toEqual([true, false])
    expect([accepts({ maxNewTokens: MAX_ANSWER_TOKENS }), accepts({ maxNewTokens: MAX_ANSWER_TOKENS + 1 })]).toEqual([true, false])
    const large = await temporaryFile('large.yaml', '#'.repeat(MAX_TASK_BYTES + 1))
    await expect(readTask(large)).rejects.toThrow(`more than the ${MAX_TASK_BYTES}`)
  })

  it('is named by a word or by a file', async () => {
    expect(await readTask('summarize')).toEqual({ kind: 'summarize' })
    await expect(readTask(await temporaryFile('latin.yaml', Buffer.from('kind: qa\nsystem: caf\xe9\n', 'latin1')))).rejects.toThrow('is not UTF-8')
    expect(await readTask(await temporaryFile('mine.yaml', 'kind: qa\nmaxNewTokens: 8\n'))).toEqual({ kind: 'qa', maxNewTokens: 8 })
    await expect(readTask('nonsense')).rejects.toThrow(TaskError)
  })
})

describe('a record', () => {
  const asked = (given: object, fields: object): unknown =>
    questionOf(resolveTask(task.parse(given)), fields as Readonly<Record<string, unknown>>)

  it('becomes a question with its label in words', () => {
    expect(asked({ kind: 'classify', labels: { 0: 'no', 1: 'yes' }, prompt: '{text}? {labels}' }, { text: 'Rain', label: 1 }))
      .toEqual({ system: undefined, prompt: 'Rain? no, yes', references: ['yes'], choices: undefined, source: 'Rain' })
  })

  it.each([['b', 'two'], ['B', 'two'], [1, 'two'], ['1', 'two'], ['two', 'two']])('names a choice by %j', (answer, expected) => {
    expect(asked({ kind: 'multiple-choice' }, { question: 'Which?', choices: ['one', 'two'], answer }))
      .toMatchObject({ prompt: 'Which?\n\none\ntwo', references: [expected], choices: ['one', 'two'] })
  })

  it('takes choices from fields of their own', () => {
    expect(asked({ kind: 'multiple-choice', choices: ['choice1', 'choice2'], prompt: '{premise}', answer: 'label' },
      { premise: 'It rained', choice1: 'wet', choice2: 'dry', label: 0 })).toMatchObject({ references: ['wet'], choices: ['wet', 'dry'] })
  })

  it("has several right answers, as SQuAD's object or as a list", () => {
    const question = { question: 'Who?', context: 'Ada.' }
    expect(asked({ kind: 'qa' }, { ...question, answers: { text: ['Ada', 'Ada', 'she'] } })).toMatchObject({ references: ['Ada', 'she'] })
    expect(asked({ kind: 'qa' }, { ...question, answer: 'Ada' })).toMatchObject({ references: ['Ada'] })
    expect(asked({ kind: 'qa', answer: ['first', 'second', 'third'] }, { ...question, first: 'Ada', second: 'she' }))
      .toMatchObject({ references: ['Ada', 'she'] })
  })

  it.each([
    ['a label that the task does not have', { kind: 'classify', labels: ['a', 'b'] }, { text: 'x', label: 'c' }, "none of the task's 2 labels"],
    ['an empty reference', { kind: 'summarize' }, { text: 'x', summary: ' ' }, 'has an empty summary'],
    ['no reference', { kind: 'qa' }, { question: 'x' }, 'has no field answer or answers'],
    ['an empty list of references', { kind: 'qa' }, { question: 'x', answers: [] }, 'has an empty answers'],
    ['one choice', { kind: 'multiple-choice' }, { question: 'x', choices: ['a'], answer: 0 }, 'no two answers to choose from'],
    ['the same choice twice', { kind: 'multiple-choice' }, { question: 'x', choices: ['a', 'a'], answer: 0 }, 'the same answer to choose twice'],
    ['an answer beyond its choices', { kind: 'multiple-choice' }, { question: 'x', choices: ['a', 'b'], answer: 2 }, 'none of its 2 choices']
  ])('with %s is refused', (_, given, fields, reason) => {
    expect(asked(given, fields)).toEqual({ reason: expect.stringContaining(reason) as string })
  })
})
